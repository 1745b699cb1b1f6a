"""What it costs to show a classifier of 100,000 classes one more, and how often it calls a stranger known.

The layer is not trained here, which would take hours: its rows point where the activations of its classes point, and it
is shown a sample of these, as one that is taken over. What a write does does not depend on where rows came from. Then
examples of new classes come one at a time to ``partial_fit``, and each call is timed as a user sees it, growth and all.

The second part asks ICD-10 texts (../shared/data/icd): how many of the known classes' examples ``is_known`` accepts,
with a threshold from others of them, and how many of classes that were never shown it refuses.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import save, start_peak

from firstsight import HebbianSoftmax
from firstsight.estimator import FirstSightClassifier
from firstsight.estimator.labels import Known
from firstsight.estimator.rows import Rows
from firstsight.lab.system.machine import resident
from firstsight.lab.system.progress import say
from firstsight.scaling import Scaling

SHARED = Path(os.environ.get("FIRSTSIGHT_SHARED", Path(__file__).resolve().parents[2] / "shared"))
DATA = SHARED / "data" / "icd"
SHARES = (0.8, 0.9, 0.95)


def large(V: int, D: int) -> FirstSightClassifier:
    """A classifier of V classes whose layer is as if trained."""
    g = torch.Generator().manual_seed(0)
    rows_VD = torch.randn(V, D, generator=g) / D**0.5
    tiny = np.random.default_rng(0).normal(size=(4, D)) / D**0.5
    found = FirstSightClassifier(least_steps=1, random_state=0).fit(tiny, np.arange(4))
    linear = torch.nn.Linear(D, V)
    with torch.no_grad():
        linear.weight.copy_(10 * rows_VD)
        linear.bias.zero_()
    head = HebbianSoftmax.from_linear(linear, counts=torch.full((V,), 30))
    y = torch.randint(V, (8192,), generator=g)
    with head.looking(), torch.no_grad():
        head.loss(rows_VD[y] + 0.5 * torch.randn(len(y), D, generator=g) / D**0.5, y)
    found._rows, found._scaling = Rows(head.eval()), Scaling(np.zeros(D), 1.0, 1.0)
    found._become(Known(np.arange(V), np.arange(V)))
    return found


def percentiles(seconds: list[float]) -> dict[str, float]:
    """In milliseconds."""
    found = np.quantile(seconds, [0.5, 0.9, 1.0]) * 1000
    return {name: round(float(x), 2) for name, x in zip(("median_ms", "p90_ms", "largest_ms"), found, strict=True)}


def arrivals(V: int, D: int, n: int) -> dict[str, Any]:
    """Seconds and memory of new classes that come one at a time, of an answer, of forgetting and of a file."""
    found, g = large(V, D), np.random.default_rng(1)
    new = g.normal(size=(n, D)) / D**0.5

    def timed(call: Any) -> tuple[float, float]:
        held = start_peak()
        start = time.perf_counter()
        call()
        return time.perf_counter() - start, (resident("VmHWM") - held) / 2**20

    held = resident("VmRSS") / 2**20
    say(f"{V:,} classes of {D} features, {held:.0f} MiB in memory")
    first, first_mib = timed(lambda: found.partial_fit(new[:1], [V]))
    calls = [timed(lambda i=i: found.partial_fit(new[i : i + 1], [V + i])) for i in range(1, n)]
    answers = [timed(lambda i=i: found.predict(new[i : i + 1]))[0] for i in range(min(n, 50))]
    assert (found.predict(new[:200]) == V + np.arange(200)).mean() > 0.9
    path = Path("estimator.part")
    saving = timed(lambda: found.save(path))
    loading = timed(lambda: FirstSightClassifier.load(path))
    size = path.stat().st_size / 2**20
    path.unlink()
    forgetting = timed(lambda: found.forget([1, 2, 3]))
    return {
        "classes": V,
        "features": D,
        "rows_mib": round(V * D * 4 / 2**20),
        "resident_mib": round(held),
        "first_new_class_s": round(first, 2),
        "first_new_class_peak_mib": round(first_mib),
        "next_new_classes": percentiles([s for s, _ in calls]) | {"calls": len(calls)},
        "next_new_classes_peak_mib": round(max(mib for _, mib in calls)),
        "predict_one": percentiles(answers),
        "save_s": round(saving[0], 2),
        "save_peak_mib": round(saving[1]),
        "load_s": round(loading[0], 2),
        "file_mib": round(size),
        "forget_s": round(forgetting[0], 2),
        "forget_peak_mib": round(forgetting[1]),
    }


def strangers(number: int) -> dict[str, Any]:
    """Of one split: how many of the known and of the unknown are called known; the threshold is set on ``valid``."""
    archive, split = np.load(DATA / "icd-minilm.npz"), json.loads((DATA / "splits.json").read_text())[number]
    h, y = archive["h"].astype(np.float32), archive["y"]
    start = time.perf_counter()
    found = FirstSightClassifier(random_state=0).fit(h[split["train"]], y[split["train"]])
    seconds = time.perf_counter() - start
    asked = [row for rows in split["new"] for row in rows]
    line: dict[str, Any] = {"split": number, "fit_s": round(seconds, 1), "score": None, "known_share": {}}
    known = [row for row in split["test"] if y[row] in found.classes_]
    line["score"] = round(100 * found.score(h[known], y[known]), 2)
    for share in SHARES:
        found.set_unknown_threshold(h[split["valid"]], y[split["valid"]], known_share=share)
        called = {"known": found.is_known(h[known]).mean(), "new_refused": 1 - found.is_known(h[asked]).mean()}
        line["known_share"][str(share)] = {name: round(100 * float(x), 1) for name, x in called.items()}
    say(str(line))
    return line


def main() -> int:
    """Both parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("estimator.json"), help="JSON file to write")
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=384)
    parser.add_argument("--arrivals", type=int, default=1000)
    parser.add_argument("--splits", nargs="*", type=int, default=[0, 1, 2], help="of ICD-10")
    given = parser.parse_args()
    found = arrivals(given.classes, given.features, given.arrivals)
    say(str(found))
    save(given.out, {"arrivals": found, "strangers": [strangers(number) for number in given.splits]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
