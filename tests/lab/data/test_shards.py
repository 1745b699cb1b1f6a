import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shard_jobs import DocumentOf, be_killed, item, refuse

from firstsight.errors import InputError
from firstsight.lab.data.corpus import SPLITS, Corpus, open_corpus
from firstsight.lab.data.pool import make_shards
from firstsight.lab.data.shards import Item, Shards, join_shards, make_shard

# Tokens of tokenizers hold no white space, and no half of a surrogate pair, which no text in UTF-8 has.
TOKENS = st.sampled_from(["<unk>", "<eos>", "the", "a", "b", "été", "e\u0301", "𝔘", "\0"]) | st.text(
    st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4
).filter(lambda token: token.split() == [token])
LINES = st.lists(st.lists(TOKENS, max_size=6), max_size=4)
NAMES = st.sampled_from(["11399", "NYT_ENG_20000101.0001", "é"])
FILES = st.lists(st.lists(st.tuples(st.sampled_from(SPLITS), NAMES, LINES), max_size=5), max_size=5)
FEW = [
    [("train", "one", [["a", "b", "a"], []]), ("valid", "two", [["only", "here"]]), ("train", "empty", [])],
    [("test", "three", [["a", "<unk>"]]), ("train", "four", [["b", "c"], ["a", "<eos>"]])],
    [],
    [("valid", "five", [["c"], ["c", "b"]])],
    [("train", "six", [["d"] * 5])],
]


def make(folder: Path, files: list[list[DocumentOf]]) -> Shards:
    return Shards(folder, [make_shard(folder, item(f"file{i}", documents)) for i, documents in enumerate(files)])


def join(out: Path, shards: Shards, **limits) -> Corpus:
    return join_shards(out, "some", shards, {"extra": 1}, tokenizer="whitespace", **limits)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def assert_is(corpus: Corpus, files: list[list[DocumentOf]], min_count: int, max_size: int | None) -> None:
    """Everything in the data folder, against a counter and a dictionary."""
    documents = {split: [d for file in files for d in file if d[0] == split] for split in SPLITS}
    texts = {
        split: [[token for line in lines for token in [*line, "<eos>"]] for _, _, lines in documents[split]]
        for split in SPLITS
    }
    counter = Counter(token for text in texts["train"] for token in text)
    seen = counter or Counter(token for split in SPLITS for text in texts[split] for token in text)
    known = sorted((-n, token) for token, n in seen.items() if n >= min_count and token not in ("<unk>", "<eos>"))
    ids = {"<unk>": 0, "<eos>": 1}
    for _, token in known[: None if max_size is None else max_size - 2]:
        ids[token] = len(ids)
    assert corpus.vocabulary.tokens == list(ids)
    assert corpus.vocabulary.counts[1:].tolist() == [counter[token] for token in list(ids)[1:]]
    assert corpus.vocabulary.counts.sum() == counter.total()
    assert corpus.meta["types"] == len(counter)
    assert corpus.meta["tokens"] == {split: sum(map(len, texts[split])) for split in SPLITS}
    assert corpus.meta["documents"] == {split: len(documents[split]) for split in SPLITS if documents[split]}
    for split in SPLITS:
        found = corpus.documents(split)
        assert (found.names if found else []) == [name for _, name, _ in documents[split]]
        if corpus.meta["tokens"][split]:
            stream = corpus.split(split).tolist()
            expected = [[ids.get(token, 0) for token in text] for text in texts[split]]
            assert [stream[start:stop] for start, stop in pairwise(found.starts)] == expected
            if split != "train":
                assert corpus.meta["unknown"][split] == stream.count(0) / len(stream)


@settings(max_examples=80, deadline=None)
@given(FILES, st.integers(1, 3), st.none() | st.integers(3, 6))
def test_shards_join_as_one_counter_and_one_dictionary_would(
    files: list[list[DocumentOf]], min_count: int, max_size: int | None
) -> None:
    with TemporaryDirectory() as folder:
        out = Path(folder)
        (out / ".train.tokens.abcd1234.part").touch()  # of a run that was killed while it wrote
        shards = make(out / ".shards", files)
        assert shards.reports() == {f"file{i}": {"documents": len(documents)} for i, documents in enumerate(files)}
        train = Counter(t for file in files for d in file if d[0] == "train" for line in d[2] for t in line)
        lines = [d[0] for file in files for d in file for _ in d[2]]
        if not lines or (
            "train" in lines and not any(n >= min_count for t, n in train.items() if t not in ("<unk>", "<eos>"))
        ):
            with pytest.raises(InputError, match="holds text" if not lines else "smaller --min-count"):
                join(out, shards, min_count=min_count, max_size=max_size)
            assert not (out / "meta.json").exists()
            return
        assert_is(join(out, shards, min_count=min_count, max_size=max_size), files, min_count, max_size)
        assert_is(open_corpus(out), files, min_count, max_size)
        assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_the_number_of_workers_and_the_order_of_finishing_change_nothing(tmp_path: Path) -> None:
    waits = [0.3, 0.0, 0.2, 0.0, 0.1]
    for workers in (1, 2, 3):
        out = tmp_path / str(workers)
        items = [item(f"file{i}", FEW[i], waits[i] if workers > 1 else 0.0) for i in range(len(FEW))]
        keys = make_shards(out / ".shards", iter(items), None, workers)
        assert keys == [f"file{i}" for i in range(len(FEW))]
        assert_is(join(out, Shards(out / ".shards", keys)), FEW, 1, None)
    assert contents(tmp_path / "1") == contents(tmp_path / "2") == contents(tmp_path / "3")


def test_the_order_of_the_keys_is_the_order_of_the_text(tmp_path: Path) -> None:
    make(tmp_path / ".shards", FEW)
    corpus = join(tmp_path, Shards(tmp_path / ".shards", ["file4", "file1", "file0"]))
    assert_is(corpus, [FEW[4], FEW[1], FEW[0]], 1, None)


def everything(folder: Path, files: list[list[DocumentOf]]) -> list:
    """All that a join reads of shards."""
    shards = Shards(folder, [f"file{i}" for i in range(len(files))])
    documents = {split: (d.names, d.starts.tolist()) for split, d in shards.documents().items()}
    with_counts = [shards.count([split]) for split in SPLITS]
    return [shards.reports(), documents, with_counts]


@pytest.mark.parametrize("damage", ["flipped", "one bit", "cut"])
def test_a_damaged_shard_is_made_anew_or_refused(tmp_path: Path, damage: str) -> None:
    make(tmp_path, FEW[:1])
    path = tmp_path / "file0.npz"
    whole, expected = path.read_bytes(), everything(tmp_path, FEW[:1])
    rng = random.Random(0)
    said: set[str] = set()
    refused = again = 0
    for position in range(len(whole)):
        mask = 0xFF if damage == "flipped" else 1 << rng.randrange(8)
        flipped = whole[:position] + bytes([whole[position] ^ mask]) + whole[position + 1 :]
        broken = whole[:position] if damage == "cut" else flipped
        path.write_bytes(broken)
        try:
            assert everything(tmp_path, FEW[:1]) == expected  # a date of the zip was hit
        except InputError as error:
            said.add(str(error).partition(" (")[0])
            refused += 1
        if rng.random() < 0.05:  # writing takes its time
            make_shard(tmp_path, item("file0", FEW[0]))
            again += path.read_bytes() != broken
    assert said == {f"{path}: this piece of the corpus is damaged"}
    assert refused > len(whole) / 2
    assert again > 5


@pytest.mark.parametrize("name", ["documents", "types", "ids"])
def test_a_shard_with_an_array_of_another_is_made_anew(tmp_path: Path, name: str) -> None:
    """A whole zip, and arrays that could be a shard's."""
    make(tmp_path, FEW[:2])
    path, other = tmp_path / "file0.npz", tmp_path / "file1.npz"
    expected = path.read_bytes()
    with np.load(path) as arrays, np.load(other) as others:
        mixed = {**arrays, name: others[name]}
    np.savez(path, **mixed)
    make_shard(tmp_path, item("file0", FEW[0]))
    assert path.read_bytes() == expected


def test_a_shard_of_another_source_or_firstsight_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def count_train() -> Counter[str]:
        return Shards(tmp_path, ["a"]).count(["train"])

    def one(word: str) -> list[DocumentOf]:
        return [("train", "1", [[word]])]

    make_shard(tmp_path, item("a", one("old")))
    make_shard(tmp_path, item("a", one("unread")))  # the same fingerprint: not looked at
    assert count_train() == {"old": 1, "<eos>": 1}
    make_shard(tmp_path, item("a", one("new"), fingerprint="2"))
    assert count_train() == {"new": 1, "<eos>": 1}
    monkeypatch.setattr("firstsight.lab.data.shards.__version__", "0.0.0")
    make_shard(tmp_path, item("a", one("newer"), fingerprint="2"))
    assert count_train() == {"newer": 1, "<eos>": 1}


def test_what_a_process_refuses_arrives_whole_and_what_is_done_stays(tmp_path: Path) -> None:
    message = "nyt_eng_200001.gz: 7 of {braces}\nand a second line, ü."
    good = [item(f"file{i}", FEW[i]) for i in range(3)]
    with pytest.raises(InputError) as caught:
        make_shards(tmp_path, [*good, Item("bad", 1, "1", partial(refuse, message))], None, 1)
    assert str(caught.value) == message
    assert not list(tmp_path.glob("bad*"))
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")}
    assert sorted(kept) == ["file0.npz", "file1.npz", "file2.npz"]
    make_shards(tmp_path, good, None, 2)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.npz")} == kept


@pytest.mark.parametrize(("workers", "said"), [(1, "with more memory"), (2, "--workers below 2")])
def test_a_process_that_is_killed_is_an_error_that_says_why(tmp_path: Path, workers: int, said: str) -> None:
    items = [item("file0", FEW[0]), Item("killed", 1, "1", be_killed), *(item(f"f{i}", FEW[1]) for i in range(20))]
    with pytest.raises(InputError, match=f"want of memory.*{said}"):
        make_shards(tmp_path, items, None, workers)


def test_no_workers(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="workers is 0; expected 1 or more"):
        make_shards(tmp_path, [], None, 0)


STARTER = """
import sys
from functools import partial
from pathlib import Path
from shard_jobs import linger
from firstsight.lab.data.pool import make_shards
from firstsight.lab.data.shards import Item
pids = Path(sys.argv[1])
make_shards(pids.parent, [Item(str(i), 1, "1", partial(linger, pids)) for i in range(9)], None, 2)
"""


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def hear():
    """Heed Ctrl-C also where the tests run in the background of a shell, which tells its jobs to ignore it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_no_process_outlives_its_starter(tmp_path: Path, number: signal.Signals) -> None:
    pids = tmp_path / "pids"
    pids.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "helpers")}
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, pids], stderr=subprocess.PIPE, env=environment, preexec_fn=hear
    )
    while len(list(pids.iterdir())) < 2:
        assert starter.poll() is None, starter.communicate()
        time.sleep(0.05)
    family = psutil.Process(starter.pid).children(recursive=True)
    assert {int(path.name) for path in pids.iterdir()} <= {process.pid for process in family}
    starter.send_signal(number)
    starter.communicate(timeout=60)  # their work would take ten minutes
    end = time.monotonic() + 30
    while any(map(is_alive, family)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [process for process in family if is_alive(process)]
