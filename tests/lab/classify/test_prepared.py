import dataclasses
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from tiny_encoder import make_encoder

from firstsight.errors import InputError
from firstsight.lab.classify.data import prepared, texts
from firstsight.lab.classify.data.prepared import open_prepared, prepare
from firstsight.lab.classify.data.source import Source
from firstsight.lab.classify.data.split import ARRAYS, make_split
from firstsight.lab.classify.settings import Trial

TRIAL = Trial(new_classes=3)
CLASSES = [f"class{i}" for i in range(12)]


def text_source(seed=0, rows=360):
    g = np.random.default_rng(seed)
    labels = [CLASSES[i % 12] for i in range(rows)]
    rows_of = [f"{label} {' '.join(g.choice(CLASSES, 3))} {i}" for i, label in enumerate(labels)]
    return Source(
        "rows.csv", labels, None, rows_of, None, ["Read."], "abc", False, {"of_file": rows + 1, "empty_text": 1}
    )


def vector_source(rows=360):
    h = np.random.default_rng(0).normal(size=(rows, 7)).astype(np.float32)
    h[:, 2], h[5] = 1, 1
    return Source(
        "rows.npz", [f"{i % 12}" for i in range(rows)], h, None, None, [], "abc", True, {"of_file": rows, "zero": 0}
    )


def same(a, b):
    assert (a.identity, a.found, a.labels, a.texts) == (b.identity, b.found, b.labels, b.texts)
    np.testing.assert_array_equal(a.hidden, b.hidden)
    for name in (*ARRAYS, "classes", "new_valid", "new_test"):
        np.testing.assert_array_equal(getattr(a.split, name), getattr(b.split, name))


def test_vectors(tmp_path):
    source = vector_source()
    data = prepare(source, TRIAL, tmp_path)
    np.testing.assert_array_equal(data.hidden, source.vectors)
    assert isinstance(data.hidden, np.memmap)
    assert not data.hidden.flags.writeable
    assert data.labels == source.labels
    assert data.texts is None
    split, _, _ = make_split(source, TRIAL)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(data.split, name), getattr(split, name))
    assert data.split.classes == split.classes
    found = data.found
    assert {name: found[name] for name in ("rows", "of_file", "classes", "features", "texts", "encoder")} == {
        **{"rows": 360, "of_file": 360, "classes": 12, "features": 7, "texts": False, "encoder": None}
    }
    assert (found["below_5"], found["5_to_20"], found["above_20"]) == (0, 0, 12)
    assert (found["constant_features"], found["constant_vectors"], found["zero"]) == (1, 1, 0)
    assert found["duplicates"] == {"rows": 0, "across": 0}
    assert (found["old_classes"], found["new_valid"], found["new_test"]) == (6, 3, 3)
    for name in ("train", "valid", "test", "asked_valid", "asked_test"):
        assert found[name] == len(getattr(split, name))
    assert json.loads(json.dumps(found)) == found
    assert sorted(path.name for path in data.folder.iterdir()) == [
        "data.json",
        "hidden.npy",
        "labels.json",
        "split.npz",
    ]


def test_texts(tmp_path):
    source = text_source()
    data = prepare(source, TRIAL, tmp_path)
    assert data.texts == source.texts
    np.testing.assert_array_equal(data.hidden, texts.counted(source.texts, data.split.train))
    assert data.found["notes"][0] == "Read."
    assert data.found["encoder"] == prepared.COUNTED
    assert data.found["left_out"] == {"empty_text": 1}


def test_the_same_again_is_used_and_another_is_made_anew(tmp_path, capsys):
    first = prepare(text_source(), TRIAL, tmp_path)
    stamp = (tmp_path / "data" / "hidden.npy").stat().st_mtime_ns
    same(prepare(text_source(), TRIAL.replace(epochs=2, shots=1), tmp_path), first)
    assert (tmp_path / "data" / "hidden.npy").stat().st_mtime_ns == stamp
    capsys.readouterr()
    for source, trial in ((text_source(1), TRIAL), (text_source(), TRIAL.replace(seed=1)), (vector_source(), TRIAL)):
        other = prepare(source, trial, tmp_path)
        assert other.identity != first.identity
        same(other, open_prepared(tmp_path / "data"))
        assert "made of other data, or with other settings" in capsys.readouterr().err.replace("\n", " ")
    same(prepare(text_source(), TRIAL, tmp_path), first)


DAMAGE = {
    "hidden.npy": lambda path: path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\1"),
    "split.npz": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "labels.json": lambda path: path.write_text(path.read_text().replace("class1", "class2")),
    "texts.json": lambda path: path.unlink(),
    "data.json": lambda path: path.write_text(path.read_text().replace('"above_20": 12', '"above_20": 13')),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_mended(tmp_path, name, capsys):
    first = prepare(text_source(), TRIAL, tmp_path)
    first = dataclasses.replace(first, hidden=np.array(first.hidden))  # the map would show the damage
    assert first.texts is not None
    DAMAGE[name](tmp_path / "data" / name)
    with pytest.raises(InputError, match=name.replace(".", r"\.")):
        open_prepared(tmp_path / "data")
    same(prepare(text_source(), TRIAL, tmp_path), first)
    assert "is made anew" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "is damaged"),
        ("[]", "is not the description"),
        ('{"version": 0}', "is not the description"),
        ('{"version": 1, "complete": false, "request": {}}', "were not finished"),
        ('{"version": 1, "complete": true}', "is damaged"),
        ('{"version": 1, "complete": true, "files": 3, "found": 3}', "is damaged"),
    ],
)
def test_a_bad_manifest(tmp_path, content, says):
    with pytest.raises(InputError, match="there is no such file"):
        open_prepared(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.json").write_text(content)
    with pytest.raises(InputError, match=says):
        open_prepared(tmp_path / "data")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "hidden.npy").write_text("mine")
    with pytest.raises(InputError, match="no folder that firstsight try made"):
        prepare(vector_source(), TRIAL, tmp_path)
    assert [path.read_text() for path in (tmp_path / "data").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("source", "encoder", "says"),
    [
        (vector_source(rows=24), None, "of 12 classes have 15"),
        (text_source(), "/no/such", "there is no such folder"),
        (vector_source(), "any", "holds vectors already"),
    ],
)
def test_nothing_is_written_where_it_cannot_be(tmp_path, source, encoder, says):
    with pytest.raises(InputError, match=says):
        prepare(source, TRIAL, tmp_path / "out", encoder=encoder)
    assert not (tmp_path / "out").exists()


def encode_slowly(encoder, out):
    model = texts.load_encoder(encoder)
    encoded = model.encode

    def slow(block, **options):
        time.sleep(0.05)
        return encoded(block, **options)

    model.encode = slow
    texts.load_encoder = lambda name: model
    texts.BLOCK = 8
    prepare(text_source(), TRIAL, out, encoder=encoder)


def test_killed_while_it_encodes(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(texts, "BLOCK", 8)
    encoder = str(make_encoder(tmp_path / "encoder", CLASSES))
    whole = prepare(text_source(), TRIAL, tmp_path / "whole", encoder=encoder)
    out: Path = tmp_path / "killed"
    process = multiprocessing.get_context("fork").Process(target=encode_slowly, args=(encoder, out))
    process.start()
    deadline = time.monotonic() + 60
    while len(list(out.glob("data/blocks/*/0*.npz"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with pytest.raises(InputError, match="were not finished"):
        open_prepared(out / "data")
    kept = len(list(out.glob("data/blocks/*/0*.npz")))
    assert 5 <= kept < 45
    rows = []
    model = texts.load_encoder(encoder)
    encoded = model.encode
    monkeypatch.setattr(model, "encode", lambda block, **options: rows.extend(block) or encoded(block, **options))
    monkeypatch.setattr(texts, "load_encoder", lambda name: model)
    same(prepare(text_source(), TRIAL, out, encoder=encoder), whole)
    assert len(rows) == 360 - 8 * kept
    assert not list(out.glob("data/.*"))
    assert not (out / "data" / "blocks").exists()
