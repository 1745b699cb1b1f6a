"""A classifier as a service that learns: /predict, /learn and /forget, over HTTP.

What it has learnt outlives it: each example is in an append-only journal, on the disk, before it is acknowledged, and a
start replays the journal onto the classifier that was trained. One process, for it has one classifier.

    pip install 'firstsight[sklearn,serve]'
    FIRSTSIGHT_KEY=secret FIRSTSIGHT_MODEL=my.safetensors uvicorn app:app --app-dir examples/serving
"""

import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel

from firstsight.estimator import FirstSightClassifier

KEY = os.environ["FIRSTSIGHT_KEY"]
MODEL = Path(os.environ.get("FIRSTSIGHT_MODEL", "model.safetensors"))
JOURNAL = Path(os.environ.get("FIRSTSIGHT_JOURNAL", MODEL.with_suffix(".journal")))


class Given(BaseModel):
    vectors: list[list[float]] = []
    labels: list[str] = []
    k: int = 1


def check_key(x_key: str = Header(default="")) -> None:
    if not secrets.compare_digest(x_key.encode(), KEY.encode()):
        raise HTTPException(401, "the header X-Key is missing or wrong")


def do(entry: dict) -> None:
    if "forget" in entry:
        clf.forget(entry["forget"])
    else:
        clf.partial_fit(np.array(entry["learn"]), entry["labels"])


def do_and_keep(entry: dict) -> dict:
    """Done, on the disk, and only then acknowledged; what is refused is in no journal."""
    with lock, refused():
        do(entry)
        journal.write(json.dumps(entry).encode() + b"\n")
        journal.flush()
        os.fsync(journal.fileno())
        return {"classes": len(clf.classes_)}


@contextmanager
def refused() -> Iterator[None]:
    try:
        yield
    except ValueError as error:  # InputError is one
        raise HTTPException(422, str(error)) from error


clf, lock = FirstSightClassifier.load(MODEL), threading.Lock()
lines = JOURNAL.read_bytes().splitlines(keepends=True) if JOURNAL.exists() else []
whole = [line for line in lines if line.endswith(b"\n")]  # one that a kill cut off was not acknowledged
for line in whole:
    do(json.loads(line))
journal = open(JOURNAL, "r+b" if lines else "wb")  # noqa: SIM115 - open as long as the service lives
journal.seek(sum(map(len, whole)))
journal.truncate()
app = FastAPI(dependencies=[Depends(check_key)])


@app.post("/predict")
def predict(given: Given) -> dict:
    with lock, refused():
        labels, probabilities = clf.top_k(np.array(given.vectors), given.k)
    return {"labels": labels.tolist(), "probabilities": probabilities.tolist()}


@app.post("/learn")
def learn(given: Given) -> dict:
    return do_and_keep({"learn": given.vectors, "labels": given.labels})


@app.post("/forget")
def forget(given: Given) -> dict:
    return do_and_keep({"forget": given.labels})
