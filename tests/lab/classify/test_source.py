import hashlib
import io
import zipfile

import numpy as np
import pytest

from firstsight.errors import InputError
from firstsight.lab.classify.data.docstrings import docstrings
from firstsight.lab.classify.data.source import read_source
from firstsight.lab.data import stdlib


def saved(folder, name="data.npz", **arrays):
    path = folder / name
    np.savez(path, **arrays)
    return path


def vectors(rows, width=5, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, width))


def table(folder, labels, name="rows.csv"):
    path = folder / name
    path.write_text("text,label\n" + "".join(f'some text {i},"{label}"\n' for i, label in enumerate(labels)))
    return path


@pytest.mark.parametrize(
    ("y", "labels", "integers"),
    [
        (np.array([3, -1, 3, 20]), ["3", "-1", "3", "20"], True),
        (np.array([[3], [255], [3], [20]], dtype=np.uint8), ["3", "255", "3", "20"], True),
        (np.array([1.0, 2.0, 1.0, 1.0]), ["1", "2", "1", "1"], True),
        (np.array(["a b", "é", "a b", "c"]), ["a b", "é", "a b", "c"], False),
        (np.array(["a", "é".encode(), "a", "c"], dtype="S2"), ["a", "é", "a", "c"], False),
        (np.array([True, False, True, True]), ["True", "False", "True", "True"], False),
    ],
)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", ">f4"])
def test_npz(tmp_path, y, labels, integers, dtype):
    h = (10 * vectors(4)).astype(dtype)
    source = read_source(saved(tmp_path, h=h, y=y, other=np.zeros(3)))
    assert (source.name, source.labels, source.integers) == ("data.npz", labels, integers)
    assert source.vectors is not None
    assert source.vectors.dtype == np.float32
    np.testing.assert_array_equal(source.vectors, h.astype(np.float32))
    assert source.texts is None is source.part
    assert source.checksum == hashlib.sha256((tmp_path / "data.npz").read_bytes()).hexdigest()
    assert source.counts == {"of_file": 4, "zero": 0}


def test_npz_with_texts_split_and_rows_of_zero(tmp_path):
    h, y, texts = vectors(6), np.array([0, 1, 0, 1, 0, 1]), np.array([f"t{i}" for i in range(6)])
    h[[1, 4]] = 0
    split = np.array(["train", "test", "dev", "Test", "train", "train"])
    source = read_source(saved(tmp_path, h=h, y=y, text=texts, split=split))
    assert source.texts == ["t0", "t2", "t3", "t5"]
    assert source.part == ["train", "valid", "test", "train"]
    assert source.labels == ["0", "0", "1", "1"]
    assert source.counts == {"of_file": 6, "zero": 2}
    assert "2 rows of h are zero and left out" in " ".join(source.notes)
    with pytest.raises(InputError, match="split holds 'later'; expected train, valid or test"):
        read_source(saved(tmp_path, h=h, y=y, split=np.where(split == "dev", "later", split)))


def test_npz_is_drawn_when_it_is_large(tmp_path):
    h = vectors(500)
    path = saved(tmp_path, h=h, y=np.arange(500) % 5)
    source = read_source(path, max_rows=60)
    rows = [int(np.flatnonzero((h.astype(np.float32) == row).all(1))[0]) for row in source.vectors]
    assert len(rows) == 60
    assert rows == sorted(set(rows))
    assert source.labels == [str(row % 5) for row in rows]
    assert "A SAMPLE: 60 of the file's 500 rows" in source.notes[0]
    assert read_source(path, max_rows=60).labels == source.labels


BAD = {
    "no array 'h'": {"y": np.arange(4)},
    "no array 'y'": {"h": vectors(4)},
    r"h is float64 \[4\]": {"h": np.ones(4), "y": np.arange(4)},
    r"h is float64 \[0, 5\]": {"h": np.ones((0, 5)), "y": np.arange(0)},
    r"h is <U1 \[1, 1\]": {"h": np.array([["a"]]), "y": np.arange(1)},
    "h has 4 rows and y 3": {"h": vectors(4), "y": np.arange(3)},
    r"y is \[4, 2\]. Expected one label an example.*argmax": {"h": vectors(4), "y": np.eye(2)[[0, 1, 0, 1]]},
    r"y\[1\] is 0.5. Expected whole numbers": {"h": vectors(4), "y": np.array([1, 0.5, 1, 2])},
    r"y\[2\] is nan": {"h": vectors(4), "y": np.array([1, 1, np.nan, 2])},
    "2 labels in y are empty": {"h": vectors(4), "y": np.array(["a", "", " ", "a"])},
    "y is datetime64": {"h": vectors(2), "y": np.array(["2020-01-01", "2020-01-02"], dtype="datetime64[D]")},
    "y is an array of Python objects": {"h": vectors(2), "y": np.array(["a", 1], dtype=object)},
    "h is an array of Python objects": {"h": np.array([[1], [2, 3]], dtype=object), "y": np.arange(2)},
    "y holds bytes that are not UTF-8": {"h": vectors(2), "y": np.array([b"\xff", b"a"])},
    r"text is int64 \[4\]; expected text": {"h": vectors(4), "y": np.arange(4) % 2, "text": np.arange(4)},
    "2 of 4 rows of h hold NaN .* row 1, 3, counted from 0": {
        "h": np.where(np.arange(4)[:, None] % 2 == 1, [np.nan, 1], 1.0),
        "y": np.arange(4) % 2,
    },
    "1 of 2 rows of h hold NaN or infinity": {"h": np.array([[1.0, 2], [1e300, 1]]), "y": np.array([0, 0])},
    "all 4 rows of h are zero": {"h": np.zeros((4, 3)), "y": np.arange(4) % 2},
    "all rows of h are the same vector": {"h": np.ones((4, 3)), "y": np.arange(4) % 2},
    "all 4 rows have one label, '7'": {"h": vectors(4), "y": np.full(4, 7)},
    "4 rows have 4 different labels, no label twice": {"h": vectors(4), "y": np.arange(4)},
    "1 labels are there in several spellings that differ by blanks: 'a' and 'a '": {
        "h": vectors(4),
        "y": np.array(["a", "a ", "a", "b"]),
    },
}


@pytest.mark.parametrize("says", BAD)
def test_bad_npz(tmp_path, says):
    with pytest.raises(InputError, match=says) as told:
        read_source(saved(tmp_path, **BAD[says]))
    assert "data.npz" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_pickle_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = saved(tmp_path, h=vectors(2), y=np.array([Evil(), Evil()]))
    with pytest.raises(InputError, match="could run any program"):
        read_source(path)
    assert not (tmp_path / "ran").exists()


def test_broken_npz(tmp_path):
    path = saved(tmp_path, h=vectors(400), y=np.arange(400) % 7)
    whole = path.read_bytes()
    for broken in (whole[:-40], whole[:2000], b"", b"text", whole[:5000] + b"\0\1" + whole[5002:]):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"data.npz: this is no .npz file, or it was cut short"):
            read_source(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("h.npy", b"\x93NUMPY")
        archive.writestr("y.npy", b"")
    with pytest.raises(InputError, match=r"no .npz file, or it was cut short"):
        read_source(path)
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 44, 8)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("h.npy", header.getvalue())
        archive.writestr("y.npy", b"")
    with pytest.raises(InputError, match=r"no .npz file, or it was cut short"):
        read_source(path)


def test_a_folder(tmp_path):
    with pytest.raises(InputError, match="this is a folder, and it should be a file with examples"):
        read_source(tmp_path)


@pytest.mark.parametrize("name", ["none.csv", "none"])
def test_no_such_file(tmp_path, name):
    with pytest.raises(InputError, match=r"there is no such file\. Expected an \.npz file .* or a \.csv"):
        read_source(tmp_path / name)


@pytest.mark.parametrize("name", ["a.txt", "a.json", "a.parquet", "a"])
def test_other_kinds_of_file(tmp_path, name):
    (tmp_path / name).write_text("text,label\n")
    with pytest.raises(InputError, match="the name ends with"):
        read_source(tmp_path / name)


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (["a", "b", "a ", "b"], "1 labels .* differ by blanks: 'a' and 'a '. .*str.strip"),
        (["a", "b", " A", "b"], "' A' and 'a'"),
        (["x y", "b", "x  y", "b"], "'x  y' and 'x y'"),
        (["a", "b", "a;b", "a; b", "b|a"], "40.0% of the rows have a label like 'a;b'.*multi-label"),
        (["a", "b", "a,b", "c"], "'a,b', whose parts are labels by themselves. Expected one label"),
        (["a", "b", "c|a|b", "c"], "multi-label"),
        (["a"] * 5, "all 5 rows have one label, 'a'"),
        (list("abcde"), "5 rows have 5 different labels"),
    ],
)
def test_bad_labels(tmp_path, labels, says):
    with pytest.raises(InputError, match=says):
        read_source(table(tmp_path, labels))


def test_labels_that_are_let_be(tmp_path):
    source = read_source(table(tmp_path, ["heart; other", "heart", "Heart", "x, not y", "x", "heart"]))
    assert source.labels == ["heart; other", "heart", "Heart", "x, not y", "x", "heart"]
    assert "1 labels differ from another by capitals only" in " ".join(source.notes)
    rare = read_source(table(tmp_path, ["a", "b"] * 30 + ["a;b"]))
    assert "1.6% of the rows have a label like 'a;b'" in " ".join(rare.notes)
    assert not source.integers
    assert read_source(table(tmp_path, ["1", "20", "1"])).integers
    assert not read_source(table(tmp_path, ["01", "20", "01"])).integers


def test_icd(shared_data):
    source = read_source(shared_data / "icd" / "icd.csv", text="text", label="label")
    assert (len(source), len(set(source.labels)), source.notes) == (23_997, 889, [])
    again = read_source(shared_data / "icd" / "icd-minilm.npz")
    assert again.vectors.shape == (23_997, 384)
    assert len(set(zip(source.labels, again.labels, strict=True))) == 889


def test_docstrings():
    source = docstrings()
    assert len(source) > 6000
    assert len(set(source.labels)) > 120
    assert {"json", "argparse", "asyncio"} <= set(source.labels)
    assert len({text.casefold() for text in source.texts}) == len(source)
    assert min(len(text.split()) for text in source.texts) == 3
    assert (source.part, source.vectors, source.integers) == (None, None, False)
    assert f"{len(source):,} docstrings" in source.notes[0]


def test_docstrings_of_a_python_without_sources(tmp_path, monkeypatch):
    monkeypatch.setattr(stdlib, "library", lambda: tmp_path)
    (tmp_path / "one.py").write_text('"""Some few words."""')
    with pytest.raises(InputError, match="without the source files"):
        docstrings()
