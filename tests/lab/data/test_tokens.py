import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.data import EOS, UNK, Vocabulary, open_tokens, write_tokens
from firstsight.lab.data.tokens import HEADER_BYTES
from firstsight.lab.system.folder import DATA, hold
from firstsight.lab.system.manifest import accept

SIZE = 70_000  # past what 16 bits hold


@pytest.fixture(scope="module")
def vocabulary() -> Vocabulary:
    return Vocabulary([UNK, EOS, *map(str, range(SIZE - 2))], np.ones(SIZE), "whitespace")


@pytest.fixture
def written(tmp_path: Path, vocabulary: Vocabulary) -> Path:
    path = tmp_path / "train.tokens"
    write_tokens(path, [np.arange(1000)], vocabulary)
    return path


@given(st.lists(st.lists(st.integers(0, SIZE - 1), max_size=20), min_size=1, max_size=6).filter(any))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary, blocks: list[list[int]]) -> None:
    path = tmp_path_factory.mktemp("tokens") / "x.tokens"
    flat = [index for block in blocks for index in block]
    assert write_tokens(path, (np.array(block, dtype=np.int64) for block in blocks), vocabulary) == len(flat)
    tokens = open_tokens(path, vocabulary.hash)
    assert tokens.tolist() == flat
    # The format, read without the package.
    raw = path.read_bytes()
    assert np.frombuffer(raw[4096:], "<u4").tolist() == flat
    assert json.loads(raw[:4096])["tokens"] == len(flat)
    assert raw[4095:4096] == b"\n"


def test_ids_past_16_bits_and_read_only(tmp_path: Path, vocabulary: Vocabulary) -> None:
    ids = np.array([65_535, 65_536, 69_999, 0], dtype=np.uint32)
    write_tokens(tmp_path / "x", [ids], vocabulary)
    tokens = open_tokens(tmp_path / "x", vocabulary.hash)
    assert tokens.dtype == np.uint32
    assert isinstance(tokens, np.memmap)
    assert tokens.tolist() == [65_535, 65_536, 69_999, 0]
    with pytest.raises(ValueError, match="read-only"):
        tokens[0] = 1


@given(st.integers(0, 4 * 1000 - 1), st.integers(0, 7))
def test_a_flipped_bit_anywhere_in_the_data(
    tmp_path_factory: pytest.TempPathFactory, vocabulary: Vocabulary, position: int, bit: int
) -> None:
    path = tmp_path_factory.mktemp("flip") / "x.tokens"
    write_tokens(path, [np.arange(1000)], vocabulary)
    raw = bytearray(path.read_bytes())
    raw[HEADER_BYTES + position] ^= 1 << bit
    path.write_bytes(raw)
    with pytest.raises(InputError, match="do not fit the checksum"):
        open_tokens(path, vocabulary.hash)


@pytest.mark.parametrize("change", [-1, -4, -4000, 1, 4])
def test_cut_short_or_added_to(written: Path, vocabulary: Vocabulary, change: int) -> None:
    raw = written.read_bytes()
    written.write_bytes(raw[:change] if change < 0 else raw + bytes(change))
    with pytest.raises(InputError, match=r"promises 1,000 tokens \(4,000 bytes\).*cut short"):
        open_tokens(written, vocabulary.hash)


def test_another_vocabulary(written: Path) -> None:
    other = Vocabulary([UNK, EOS, "a"], [1, 1, 1], "whitespace")
    with pytest.raises(InputError, match="another vocabulary"):
        open_tokens(written, other.hash)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"x" * 5000, b'{"format": "other"}'.ljust(5000), b"\xff" * 5000])
def test_no_token_file(tmp_path: Path, vocabulary: Vocabulary, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a token file, or its header is damaged"):
        open_tokens(path, vocabulary.hash)


def changed_header(path: Path, **changes: object) -> None:
    raw = path.read_bytes()
    header = {**json.loads(raw[:HEADER_BYTES]), **changes}
    path.write_bytes(json.dumps(header).encode().ljust(HEADER_BYTES) + raw[HEADER_BYTES:])


def test_header_with_other_values(written: Path, vocabulary: Vocabulary) -> None:
    changed_header(written, version=2)
    with pytest.raises(InputError, match="version 2"):
        open_tokens(written, vocabulary.hash)
    changed_header(written, version=1, tokens="1000")
    with pytest.raises(InputError, match="header is damaged"):
        open_tokens(written, vocabulary.hash)
    changed_header(written, tokens=-1)
    with pytest.raises(InputError, match="header is damaged"):
        open_tokens(written, vocabulary.hash)


def test_missing_and_empty(tmp_path: Path, vocabulary: Vocabulary) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        open_tokens(tmp_path / "x", vocabulary.hash)
    assert write_tokens(tmp_path / "x", [], vocabulary) == 0
    with pytest.raises(InputError, match="holds no tokens"):
        open_tokens(tmp_path / "x", vocabulary.hash)


@pytest.mark.parametrize(
    ("block", "message"),
    [(np.array([3, SIZE]), "from 3 to 70000"), (np.array([-1, 3]), "from -1 to 3"), (np.array([1.0]), "integers")],
)
def test_bad_ids_leave_the_old_file(
    written: Path, vocabulary: Vocabulary, block: npt.NDArray[np.generic], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_tokens(written, [np.arange(5), block], vocabulary)
    assert len(open_tokens(written, vocabulary.hash)) == 1000
    assert [path.name for path in written.parent.iterdir()] == [written.name]


def test_altered_ids_that_were_accepted_still_have_to_fit_the_header(tmp_path: Path, vocabulary: Vocabulary) -> None:
    path = tmp_path / "x.tokens"
    with hold(tmp_path, DATA):
        write_tokens(path, [np.arange(9)], vocabulary)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 0x80
    path.write_bytes(raw)
    with pytest.raises(InputError, match="this is not the file that was written here"):
        open_tokens(path, vocabulary.hash)
    accept(tmp_path)
    with pytest.raises(InputError, match="do not fit the checksum"):
        open_tokens(path, vocabulary.hash)
