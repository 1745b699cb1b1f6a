from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.data import corpus, open_corpus
from firstsight.lab.data.documents import Documents, open_documents, write_documents
from firstsight.lab.data.vocabulary import Vocabulary


def documents_of(names: list[str], sizes: list[int]) -> Documents:
    return Documents(names, np.cumsum([0, *sizes], dtype=np.int64))


@settings(deadline=None)
@given(st.lists(st.tuples(st.text("añ日-_.7", min_size=1, max_size=9), st.integers(0, 2**40)), max_size=9))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, int]]) -> None:
    names, sizes = [name for name, _ in entries], [size for _, size in entries]
    path = tmp_path_factory.mktemp("d") / "x.npz"
    write_documents(path, documents_of(names, sizes))
    read = open_documents(path, sum(sizes))
    assert (read.names, len(read)) == (names, len(names))
    assert np.diff(read.starts).tolist() == sizes


def test_no_altered_byte_passes(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write_documents(path, documents_of(["one", "two"], [3, 4]))
    whole = path.read_bytes()
    refused = 0
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            read = open_documents(path, 7)
            assert (read.names, read.starts.tolist()) == (["one", "two"], [0, 3, 7])  # a date, say, decides nothing
        except InputError as error:
            refused += 1
            if "Prepare the data again" not in str(error):
                raise
    assert refused > len(whole) / 3
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match="damaged"):
            open_documents(path, 7)


def test_documents_of_another_text(tmp_path: Path) -> None:
    write_documents(tmp_path / "x.npz", documents_of(["one"], [3]))
    with pytest.raises(InputError, match="another text: they do not add up to the 4 tokens"):
        open_documents(tmp_path / "x.npz", 4)
    with pytest.raises(InputError, match="no such file"):
        open_documents(tmp_path / "y.npz", 3)


def test_an_older_corpus_leaves_no_documents_behind(tmp_path: Path) -> None:
    vocabulary = Vocabulary(["<unk>", "<eos>", "a"], [0, 1, 1], "whitespace")
    blocks = {split: [np.array([2, 1], dtype=np.uint32)] for split in corpus.SPLITS}
    corpus.save_corpus(tmp_path, "x", vocabulary, blocks, {}, documents={"test": documents_of(["t"], [2])})
    assert open_corpus(tmp_path).documents("test").names == ["t"]
    assert open_corpus(tmp_path).documents("train") is None
    corpus.save_corpus(tmp_path, "x", vocabulary, blocks, {})
    assert open_corpus(tmp_path).documents("test") is None
    assert not list(tmp_path.glob("*.npz"))
