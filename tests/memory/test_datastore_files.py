"""The files of a store: built again after a kill, held against their checksums, refused when they are of another."""

import json
import os
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch
from deaths import killed_at
from memory_reference import make_stream
from stores import ABOUT, build, in_pieces, stored

from firstsight import InputError
from firstsight.memory import Datastore, DatastoreWriter
from firstsight.memory.datastore import compact, contents, files, join, writer

N, D, STARTS = 61, 5, (0, 13, 14, 48)
HIDDEN, LABEL = make_stream(3, (N,), 5, D, dtype=torch.float32)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    in_pieces(monkeypatch)


def bytes_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_what_is_written_is_there(tmp_path, dtype):
    store = build(tmp_path / "s", HIDDEN, LABEL, dtype=dtype, starts=STARTS)
    assert (len(store), store.count, store.dim, store.dtype, store.about) == (N, N, D, dtype, ABOUT)
    assert store.labels.tolist() == LABEL.tolist()
    assert store.documents.tolist() == [[0, 0], [13, 1], [14, 2], [48, 3]]
    error = (stored(store) - HIDDEN).abs().amax(1) / HIDDEN.abs().amax(1)
    assert error.max() <= {"float16": 2**-11, "float32": 0, "int8": 1 / 253}[dtype]
    for path in (tmp_path / "s").glob("*.bin"):
        assert json.loads(path.read_bytes()[:4096])["format"] == f"firstsight datastore, {path.stem}"


def test_pairs_without_a_label_are_left_out(tmp_path):
    hidden, label = make_stream(3, (N,), 5, D, ignored=0.3, dtype=torch.float32)
    kept = label != -100
    store = build(tmp_path / "s", hidden, label)
    assert store.labels.tolist() == label[kept].tolist()
    assert torch.equal(stored(store), hidden[kept].half().double())


@pytest.mark.parametrize("pairs", [0, 24, 1])
def test_whole_blocks_a_single_pair_and_none(tmp_path, pairs):
    store = build(tmp_path / "s", HIDDEN[:pairs], LABEL[:pairs])
    assert len(store) == store.count == pairs
    squared_QK, index_QK = store.search(HIDDEN[:3], 4)
    assert squared_QK.shape == index_QK.shape == (3, min(4, pairs))


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_a_build_that_is_killed_anywhere_comes_to_the_same_bytes(tmp_path, dtype):
    build(tmp_path / "whole", HIDDEN, LABEL, dtype=dtype, starts=STARTS)
    expected = bytes_of(tmp_path / "whole")
    functions = [(os, "fsync"), (os, "replace"), (os, "truncate")]
    done = []
    for calls in range(100):
        folder = tmp_path / f"killed-{calls}"
        for more in (0, 3):  # the second build is killed too
            killed_at(calls + more, functions, partial(build, folder, HIDDEN, LABEL, dtype=dtype, starts=STARTS))
        with DatastoreWriter(folder, D, about=ABOUT, dtype=dtype) as made:
            done.append(made.done)
            if not made.finished:
                with pytest.raises(InputError, match="not built to its end"):
                    Datastore.open(folder)
            made.finish = lambda: None
        build(folder, HIDDEN, LABEL, dtype=dtype, starts=STARTS)
        assert bytes_of(folder) == expected, calls
        if done[-1] == N and calls > 20:
            break
    assert len(set(done)) > 4
    assert done[-1] == N


def test_a_real_kill_in_the_middle(tmp_path):
    """Another process writes until it is killed; what it had not made safe is cut, whatever of it is there."""
    script = (
        "import os, signal, torch\n"
        "from firstsight.memory import DatastoreWriter\n"
        "from firstsight.memory.datastore import writer\n"
        "writer._BLOCK_BYTES = 2000\n"
        "h, y = torch.arange(6000.).view(-1, 10), torch.arange(600)\n"
        f"w = DatastoreWriter({str(tmp_path / 's')!r}, 10, about={{}})\n"
        "w.append(h[:433], y[:433])\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    with pytest.MonkeyPatch.context() as patch:
        in_pieces(patch, block_bytes=2000)
        hidden, label = torch.arange(6000.0).view(-1, 10), torch.arange(600)
        with DatastoreWriter(tmp_path / "s", 10, about={}) as made:
            assert made.done == 433 // made.block * made.block > 0
            made.append(hidden[made.done :], label[made.done :])
        with DatastoreWriter(tmp_path / "whole", 10, about={}) as made:
            made.append(hidden, label)
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")


def test_an_error_inside_leaves_a_build_to_go_on_with(tmp_path):
    def begin():
        with DatastoreWriter(tmp_path / "s", D, about=ABOUT) as made:
            made.append(HIDDEN[:30], LABEL[:30])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        begin()
    assert len(build(tmp_path / "s", HIDDEN, LABEL)) == N


def test_a_finished_store_is_left_as_it_is(tmp_path):
    build(tmp_path / "s", HIDDEN, LABEL)
    before = bytes_of(tmp_path / "s")
    with DatastoreWriter(tmp_path / "s", D, about=ABOUT) as made:
        assert (made.done, made.finished) == (N, True)
        with pytest.raises(InputError, match="finished"):
            made.append(HIDDEN, LABEL)
    assert bytes_of(tmp_path / "s") == before


def test_two_cannot_build_one_store(tmp_path):
    with DatastoreWriter(tmp_path / "s", D, about=ABOUT) as made:
        made.append(HIDDEN, LABEL)
        with pytest.raises(InputError, match="another process"):
            DatastoreWriter(tmp_path / "s", D, about=ABOUT)
    assert len(Datastore.open(tmp_path / "s")) == N


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"about": {**ABOUT, "checkpoint": "other"}}, "checkpoint is 'a1b2' there and 'other' here"),
        ({"about": {"checkpoint": "a1b2", "corpus": "wikitext-2"}}, "tokens is 12 there and None here"),
        ({"dtype": "float32"}, "dtype is 'float16' there and 'float32'"),
        ({"dim": 7}, "width of the activations is 5 there and 7 here"),
    ],
)
def test_another_build_in_the_same_folder(tmp_path, built, settings, said):
    with DatastoreWriter(tmp_path / "s", D, about=ABOUT) as made:
        made.append(HIDDEN, LABEL)
        if not built:
            made.finish = lambda: None
    with pytest.raises(InputError, match=said):
        DatastoreWriter(tmp_path / "s", **{"dim": D, "about": ABOUT, **settings})


def test_a_store_of_something_else_is_refused(tmp_path):
    build(tmp_path / "s", HIDDEN, LABEL)
    with pytest.raises(InputError, match=r"s: .*checkpoint is 'a1b2' there and 'ffff' here"):
        Datastore.open(tmp_path / "s", {**ABOUT, "checkpoint": "ffff"})
    assert Datastore.open(tmp_path / "s").about == ABOUT


def test_what_a_writer_refuses(tmp_path):
    for settings, said in [({"dim": 0}, "dim is 0"), ({"dtype": "float64"}, "float64.*float16, float32, int8")]:
        with pytest.raises(InputError, match=said):
            DatastoreWriter(tmp_path / "s", **{"dim": D, "about": {}, **settings})
    (tmp_path / "letter").mkdir()
    (tmp_path / "letter" / "to.txt").write_text("dear", encoding="utf-8")
    with pytest.raises(InputError, match=r"letter.*no store"):
        DatastoreWriter(tmp_path / "letter", D, about={})
    with DatastoreWriter(tmp_path / "s", D, about={}) as made:
        made.append(HIDDEN, LABEL)
        for hidden, label, said in [
            (HIDDEN[:, :3], LABEL, "61, 3.*N, 5"),
            (HIDDEN, LABEL[:4], "61, 5.*4"),
            (HIDDEN * float("nan"), LABEL, "NaN"),
            (HIDDEN, LABEL - 7, "label -7|label -"),
            (HIDDEN + 1e5, LABEL, "float16 hold up to 65504.*float32"),
        ]:
            with pytest.raises(InputError, match=said):
                made.append(hidden, label)
        assert len(made) == N
    assert len(Datastore.open(tmp_path / "s")) == N


FILES = ["keys.bin", "scales.bin", "labels.bin", "documents.bin", "deleted.bin", "store.json"]


@pytest.mark.parametrize("name", FILES)
def test_damage_of_every_file_is_named(tmp_path, name):
    build(tmp_path / "s", HIDDEN, LABEL, dtype="int8", starts=STARTS)
    path = tmp_path / "s" / name
    whole = path.read_bytes()
    generator = np.random.default_rng(0)
    places = [0, 20, len(whole) - 2, *generator.integers(0, len(whole), 40), *range(4096, min(len(whole), 4200), 9)]
    for place in places:
        altered = bytearray(whole)
        altered[place] ^= 1 << int(generator.integers(8))
        path.write_bytes(altered)
        with pytest.raises(InputError, match=name):
            Datastore.open(tmp_path / "s")
    for cut in (0, 10, len(whole) // 2, len(whole) - 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match=name):
            Datastore.open(tmp_path / "s")
    path.write_bytes(whole + b"\0")
    with pytest.raises(InputError, match=name):
        Datastore.open(tmp_path / "s")
    path.unlink()
    with pytest.raises(InputError, match=name):
        Datastore.open(tmp_path / "s")
    path.write_bytes(whole)
    assert len(Datastore.open(tmp_path / "s")) == N


def test_files_of_another_store_are_refused(tmp_path):
    build(tmp_path / "s", HIDDEN, LABEL, dtype="int8", starts=STARTS)
    build(tmp_path / "other", HIDDEN.flip(0), LABEL.flip(0), dtype="int8", starts=(0, 5, 6, 7))
    for name in FILES[:-1]:
        shutil.copytree(tmp_path / "s", tmp_path / name)
        shutil.copy(tmp_path / "other" / name, tmp_path / name / name)
        with pytest.raises(InputError, match=f"{name}.*another store"):
            Datastore.open(tmp_path / name)
        shutil.copy(tmp_path / "s" / "labels.bin", tmp_path / name / name)
        if name != "labels.bin":
            with pytest.raises(InputError, match=f"{name}.*labels.*expected"):
                Datastore.open(tmp_path / name)


def test_another_version_is_named(tmp_path, monkeypatch):
    for module in (files, contents, writer):
        monkeypatch.setattr(module, "VERSION", 7)
    build(tmp_path / "s", HIDDEN, LABEL)
    monkeypatch.setattr(files, "VERSION", 1)
    with pytest.raises(InputError, match="version 7 and this firstsight reads version 1"):
        Datastore.open(tmp_path / "s")


def test_a_build_whose_files_were_damaged_is_named(tmp_path):
    def begun(name):
        with DatastoreWriter(tmp_path / name, D, about=ABOUT) as made:
            made.append(HIDDEN, LABEL)
            made.finish = lambda: None
        return tmp_path / name

    notes = begun("notes") / "building.jsonl"
    notes.write_bytes(notes.read_bytes().replace(b'"sha256": {"keys": "', b'"sha256": {"keys": "0', 1))
    with pytest.raises(InputError, match=r"building.jsonl.*altered"):
        build(tmp_path / "notes", HIDDEN, LABEL)
    keys = begun("keys") / "keys.bin"
    os.truncate(keys, 4200)
    with pytest.raises(InputError, match=r"keys.bin.*cut short"):
        build(tmp_path / "keys", HIDDEN, LABEL)
    with open(begun("late") / "building.jsonl", "ab") as file:
        file.write(b'{"half a li')
    assert len(build(tmp_path / "late", HIDDEN, LABEL)) == N


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_compact_and_join(tmp_path, dtype):
    store = build(tmp_path / "s", HIDDEN, LABEL, dtype=dtype, starts=STARTS)
    other = build(tmp_path / "o", HIDDEN.flip(0), LABEL.flip(0), dtype=dtype, starts=(0, 30))
    assert store.delete(document=1) == 1
    assert store.delete(entries=range(10, 20)) == 9
    gone = torch.isin(torch.arange(N), torch.arange(10, 20))
    assert store.delete(label=int(LABEL[50])) == int((LABEL[50] == LABEL)[~gone].sum())
    assert other.delete(document=0) == 30
    left = torch.from_numpy(~store.deleted())
    small = compact(store, tmp_path / "c")
    assert torch.equal(stored(small), stored(store)[left])
    assert small.labels.tolist() == LABEL[left].tolist()
    assert len(small) == small.count == len(store) == int(left.sum())
    numbers = {number: stored(small)[span].tolist() for number in (0, 2, 3) for span in small.spans(number)}
    for number, rows in numbers.items():
        (span,) = store.spans(number)
        assert rows == stored(store)[span][left[span]].tolist()
    with pytest.raises(InputError, match="document is 1"):
        small.delete(document=1)
    both = join([store, other, small], tmp_path / "j", {"of": "both"})
    assert torch.equal(stored(both), torch.cat([stored(store)[left], stored(other)[30:], stored(small)]))
    assert both.documents.tolist() == [[0, 0], [*_starts(small)[1:2], 1], [*_starts(small)[2:], 2]] + [
        [len(small), 3],
        *([len(small) + len(other) + start, 4 + m] for m, start in enumerate(_starts(small))),
    ]
    with pytest.raises(InputError, match="one width"):
        join([store, build(tmp_path / "w", HIDDEN[:, :2], LABEL)], tmp_path / "x", {})
    assert compact(small, tmp_path / "c2").documents.tolist() == small.documents.tolist()


def _starts(store):
    return store.documents[:, 0].tolist()


def test_a_copy_that_is_killed_comes_to_the_same_bytes(tmp_path):
    store = build(tmp_path / "s", HIDDEN, LABEL, starts=STARTS)
    store.delete(label=2)
    compact(store, tmp_path / "whole")
    for calls in range(2, 30, 3):
        killed_at(calls, [(os, "fsync")], lambda calls=calls: compact(store, tmp_path / str(calls)))
        compact(store, tmp_path / str(calls))
        assert bytes_of(tmp_path / str(calls)) == bytes_of(tmp_path / "whole")
    killed_at(9, [(os, "fsync")], lambda: compact(store, tmp_path / "late"))
    store.delete(label=1)
    with pytest.raises(InputError, match="origin"):
        compact(store, tmp_path / "late")


def test_deletions_stay_and_are_seen_by_others(tmp_path):
    store, other = build(tmp_path / "s", HIDDEN, LABEL), Datastore.open(tmp_path / "s")
    assert store.delete(entries=[3, 4, 3]) == 2
    assert other.delete(entries=torch.tensor([4, 5])) == 1
    store.refresh()
    for one in (store, other, Datastore.open(tmp_path / "s")):
        assert np.flatnonzero(one.deleted()).tolist() == [3, 4, 5]
        assert len(one) == N - 3


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, "utf-16", "utf-8-sig", b"\xff\xfe", b"{}", b"null", "a blank", "a line twice"]
)
def test_contents_that_json_takes_in_another_way_are_refused(tmp_path, content):
    """Nested past Python's stack, or in another encoding: by name, and not taken for what they were."""
    build(tmp_path / "s", torch.randn(20, 4), torch.arange(20))
    path = tmp_path / "s" / "store.json"
    if content in ("a blank", "a line twice"):
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join([*lines[:3], *lines[2:]] if content == "a line twice" else [*lines, b" "]))
    else:
        path.write_bytes(path.read_text().encode(content) if isinstance(content, str) else content)
    with pytest.raises(InputError, match=r"store\.json: this should say what a store holds, but it was altered"):
        Datastore.open(tmp_path / "s")
