"""Arrays in files: as they were written to the last bit, or refused by an error that names the file."""

import io
import zipfile

import numpy as np
import pytest

from firstsight.errors import InputError
from firstsight.lab.data.arrays import load_array, load_arrays, map_array

ARRAYS = {"a": np.arange(40, dtype=np.float32), "b": np.array(["x", "yy"]), "c": np.zeros((2, 0), dtype=np.int64)}
WHAT = ("this list of numbers", "Make it anew.")


@pytest.fixture
def path(tmp_path):
    np.savez(tmp_path / "a.npz", **ARRAYS)
    return tmp_path / "a.npz"


def test_what_is_whole_is_read(path):
    found = load_arrays(path, ARRAYS, *WHAT)
    assert all(
        np.array_equal(found[name], array) and found[name].dtype == array.dtype for name, array in ARRAYS.items()
    )


def test_one_flipped_bit_is_never_another_array(path):
    whole = path.read_bytes()
    refused = 0
    for at in range(0, len(whole), 3):
        content = bytearray(whole)
        content[at] ^= 1 << at % 8
        path.write_bytes(content)
        try:
            found = load_arrays(path, ARRAYS, *WHAT)
        except InputError as error:
            refused += 1
            assert "a.npz: this list of numbers" in str(error)  # noqa: PT017
        else:
            assert all(np.array_equal(found[name], array) for name, array in ARRAYS.items())
    assert refused > len(whole) // 6


def test_a_file_cut_anywhere_is_refused(path):
    whole = path.read_bytes()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(InputError, match=r"a\.npz: this list of numbers is damaged.*Make it anew"):
            load_arrays(path, ARRAYS, *WHAT)


def with_header(text: bytes, data: bytes = bytes(160)) -> bytes:
    header = text.ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


HEADERS = {
    "longer": b"{'descr': '<f4', 'fortran_order': False, 'shape': (41,), }",
    "shorter": b"{'descr': '<f4', 'fortran_order': False, 'shape': (39,), }",
    "enormous": b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000000000,), }",
    "negative": b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
    "overflow": b"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
    "objects": b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "no dtype": b"{'descr': [3], 'fortran_order': False, 'shape': (1,), }",
    "no shape": b"{'descr': '<f4', 'fortran_order': False, 'shape': 'x', }",
    "nested": b"(" * 100,
    "code": b"__import__('os')",
    "empty": b"",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_a_hostile_header_is_refused(header, tmp_path):
    path, plain = tmp_path / "a.npz", tmp_path / "a.npy"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", with_header(header))
    with pytest.raises(InputError, match=r"a\.npz: this list of numbers is damaged"):
        load_array(path, "a", *WHAT)
    plain.write_bytes(with_header(header))
    with pytest.raises(InputError, match=r"a\.npy: this list of numbers is damaged"):
        map_array(plain, np.float32, *WHAT)


def test_what_is_no_file_of_arrays_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.npz: there is no such file.*list of numbers"):
        load_array(tmp_path / "none.npz", "a", *WHAT)
    with pytest.raises(InputError, match=r": this is a folder"):
        load_array(tmp_path, "a", *WHAT)
    (tmp_path / "pickled.npy").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(InputError, match=r"pickled\.npy: this list of numbers is damaged"):
        map_array(tmp_path / "pickled.npy", np.float32, *WHAT)


def test_a_map_is_of_the_type_that_is_wanted(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    assert map_array(tmp_path / "a.npy", np.float32, *WHAT).tolist() == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(InputError, match=r"a\.npy: .*holds float32, not int64"):
        map_array(tmp_path / "a.npy", np.int64, *WHAT)
    with open(tmp_path / "a.npy", "ab") as file:
        file.write(b"x")
    with pytest.raises(InputError, match=r"a\.npy: .*not as many as its header says"):
        map_array(tmp_path / "a.npy", np.float32, *WHAT)


def test_an_array_that_says_it_has_more_than_any_memory(tmp_path):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.npy", b"x")
    content = out.getvalue().replace((1).to_bytes(4, "little") * 2, (1).to_bytes(4, "little") + b"\xff\xff\xff\xf0")
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.npz: this list of numbers is damaged"):
        load_array(tmp_path / "a.npz", "a", *WHAT)
