"""What programs of users do with files of the library, as a command: a JSON on standard output, or exit code 2."""

import hashlib
import json
import sys
from collections.abc import Sequence

import numpy as np


def _load(path: str) -> dict:
    """Load a classifier and let it answer."""
    from firstsight.estimator import FirstSightClassifier

    found = FirstSightClassifier.load(path)
    X = np.random.default_rng(5).normal(size=(20, 6)).astype(np.float32)
    answers = found.predict_proba(X)
    sums = hashlib.sha256(np.ascontiguousarray(answers)).hexdigest()
    return {"classes": [str(name) for name in found.classes_], "answers": sums}


def _source(path: str) -> dict:
    """Read a file of labelled examples, as the trial does before anything else."""
    from firstsight.lab.classify.data.source import read_source

    found = read_source(path)
    content = hashlib.sha256(json.dumps([found.labels, found.texts, found.part]).encode())
    if found.vectors is not None:
        content.update(np.ascontiguousarray(found.vectors).tobytes())
    return {"rows": len(found), "content": content.hexdigest()}


PROGRAMS = {"estimator load": _load, "try (reading)": _source}


def run(argv: Sequence[str]) -> int:
    """Run a program by name."""
    from firstsight.errors import InputError

    try:
        print(json.dumps(PROGRAMS[argv[0]](*argv[1:])))
    except InputError as error:
        print(f"firstsight: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print(f"firstsight: {what}", file=sys.stderr)
        return 2
    return 0
