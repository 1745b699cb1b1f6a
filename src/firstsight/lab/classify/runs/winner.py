"""The trained winner as files: the layer, and what it needs to be used."""

from pathlib import Path
from typing import Any

from safetensors.torch import save

from firstsight.lab.classify.data.prepared import Prepared
from firstsight.lab.classify.methods.task import Task
from firstsight.lab.classify.runs.jobs import LAYER, Measuring
from firstsight.lab.classify.runs.work import make
from firstsight.lab.runs.checkpoint import load_checkpoint
from firstsight.lab.system.files import atomic_write, write_json


def save_winner(job: Measuring, prepared: Prepared, task: Task, folder: Path) -> str | None:
    """Write ``layer.safetensors`` and ``winner.json``: as trained on the first seed, of the old classes alone.

    A trained layer is saved as its ``state_dict`` (``head.`` and ``body.`` before the names), any other as ``weight``
    [V, D] and ``bias`` [V]; all of them are for vectors scaled by ``scaling``, and cosine's for such of length 1.

    Returns:
        The folder, or None where the winner is no linear layer and keeps the training data itself.
    """
    settings = job.of.settings
    classifier = make(
        job.method, settings, setting=job.chosen.setting, seed=job.of.settings.seed, epochs=job.of.plan.epochs
    )
    classifier.restore(task, load_checkpoint(job.chosen.folder / LAYER)["state"])
    layer = classifier.layer()
    if layer is None:
        return None
    tensors = classifier.state() if job.method.trained else dict(zip(("weight", "bias"), layer, strict=True))
    told: dict[str, Any] = {
        "method": job.method.name,
        "options": job.method.options,
        "labels": prepared.split.classes,
        "scaling": task.scaling._asdict() | {"mean_D": task.scaling.mean_D.tolist()},
        "body": settings.body if job.method.trained else "none",
        "setting": job.chosen.setting,
    }
    with atomic_write(folder / "layer.safetensors", "wb") as file:
        file.write(save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}))
    write_json(folder / "winner.json", told)
    return str(folder)
