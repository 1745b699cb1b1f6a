"""The trained winner as files: a classifier to load where it is ours, else the layer and what it needs to be used."""

from pathlib import Path
from typing import Any

from safetensors.torch import save

from firstsight import HebbianSoftmax
from firstsight.lab.classify.data.prepared import Prepared
from firstsight.lab.classify.methods.task import Task
from firstsight.lab.classify.methods.trained import Trained
from firstsight.lab.classify.runs.jobs import LAYER, Measuring
from firstsight.lab.classify.runs.work import make, restore
from firstsight.lab.system.files import atomic_write, write_json


def save_winner(job: Measuring, prepared: Prepared, task: Task, folder: Path) -> str | None:
    """Write it as trained on the first seed, of the old classes and the training rows alone.

    A layer that writes becomes ``classifier.safetensors``, for ``FirstSightClassifier.load``. Any other, or one with a
    network below it, becomes ``layer.safetensors`` and ``winner.json``: a trained layer as its ``state_dict``
    (``head.`` and ``body.`` before the names), one that was not trained as ``weight`` [V, D] and ``bias`` [V]; all of
    them for vectors scaled by ``scaling``, and cosine's for such of length 1.

    Returns:
        The file to load, or the folder; None where the winner is no linear layer and keeps the training data itself.
    """
    settings, epochs = job.of.settings, job.of.plan.epochs
    classifier = make(job.method, settings, setting=job.chosen.setting, seed=job.of.settings.seed, epochs=epochs)
    restore(classifier, task, job.chosen.folder / LAYER)
    if job.method.ours and settings.body == "none":
        return str(_save_classifier(classifier, job, prepared, task, folder / "classifier.safetensors"))
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


def _save_classifier(classifier: Any, job: Measuring, prepared: Prepared, task: Task, path: Path) -> Path:
    from firstsight.estimator import FirstSightClassifier  # scikit-learn's import takes a second

    assert isinstance(classifier, Trained)
    assert isinstance(classifier.head, HebbianSoftmax)
    settings = {
        "learning_rate": job.chosen.setting,
        "epochs": job.of.plan.epochs,
        "batch_size": job.of.settings.batch,
        "random_state": job.of.settings.seed,
        "logit_adjustment": float(job.method.name.endswith("-adjusted")),
    }
    made = FirstSightClassifier.from_layer(classifier.head, prepared.split.classes, task.scaling, **settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    made.save(path)
    return path
