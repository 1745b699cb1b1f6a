from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from firstsight.lab.data import Corpus, Vocabulary, open_corpus, write_corpus, write_tokens
from firstsight.lab.data.info import describe_corpus
from firstsight.lab.report.zipf import zipf_plot
from firstsight.lab.system.files import read_json, write_json
from firstsight.lab.system.folder import hold

TEXT = {"train": ["a b a $x", "c a"], "valid": ["a d"], "test": ["b c", "z z"]}


def write(folder: Path, **options: Any) -> Corpus:
    lines = {split: partial(iter, lines) for split, lines in TEXT.items()}
    sources = [{"name": str(i), "sha256": "0"} for i in range(30)]
    return write_corpus(folder, "tiny", lines, tokenizer="whitespace", sources=sources, **options)


def test_described(tmp_path: Path) -> None:
    write(tmp_path)
    found = describe_corpus(tmp_path)
    assert found["tokens"] == {"train": 8, "valid": 3, "test": 6}
    assert found["documents"] == {"train": None, "valid": None, "test": None}
    assert found["vocabulary"] == 6
    assert found["unknown"] == {"train": 0, "valid": 1 / 3, "test": 2 / 6}
    assert found["singletons"] == {"types": 3, "share": 3 / 5}
    assert found["top"][:2] == [{"token": "a", "count": 3}, {"token": "<eos>", "count": 2}]
    bands = {band["name"]: band for band in found["bands"]}
    assert list(bands) == [">10K", "1K-10K", "100-1K", "<100", "unseen"]
    assert bands["<100"]["types"] == 5
    assert bands["<100"]["tokens"] == {"train": 8, "valid": 2, "test": 4}
    assert bands["unseen"]["share"] == {"train": 0, "valid": 1 / 3, "test": 2 / 6}
    assert found["paper"] is None
    assert found["provenance"]["sources_total"] == 30
    assert found["provenance"]["sources"][0] == {"name": "0", "sha256": "0"}
    assert found["provenance"]["tokenizer"] == "whitespace"
    assert found["bytes"]["train.tokens"] == 4096 + 8 * 4
    assert found["notes"] == []


def test_the_paper_beside_ours(tmp_path: Path) -> None:
    write(tmp_path)
    meta = read_json(tmp_path / "meta.json", "")
    with hold(tmp_path):
        write_json(tmp_path / "meta.json", meta | {"corpus": "gutenberg", "paper_tokens": {"valid": 4}})
    found = describe_corpus(tmp_path)
    assert found["paper"] == {"valid": {"paper": 4, "ours": 3, "difference": -0.25}}


def test_no_training_text(tmp_path: Path) -> None:
    vocabulary = Vocabulary(["<unk>", "<eos>", "a"], [0, 0, 0], "whitespace")
    vocabulary.save(tmp_path / "vocabulary.json")
    tokens = {"train": [], "valid": [2, 1], "test": [2, 0, 1]}
    for split, ids in tokens.items():
        write_tokens(tmp_path / f"{split}.tokens", [np.array(ids, dtype=np.uint32)], vocabulary)
    meta = {"corpus": "evaluation only", "unknown": {}, "tokens": {split: len(ids) for split, ids in tokens.items()}}
    write_json(tmp_path / "meta.json", meta | {"vocabulary_hash": vocabulary.hash, "complete": True})
    assert open_corpus(tmp_path).name == "evaluation only"
    found = describe_corpus(tmp_path)
    assert "no training text" in found["notes"][0]
    assert found["unknown"] == {"valid": 0, "test": 1 / 3}
    assert found["top"] == []
    assert found["bands"][-1]["types"] == 3


@pytest.mark.parametrize(
    "counts",
    [[1], [5, 5], [0, 0, 7], [20_000, 0, 3, 20_000], list(range(3000)), [10**9 // (i + 1) for i in range(5000)]],
)
@pytest.mark.filterwarnings("error")
def test_every_shape_of_counts_is_drawn(tmp_path: Path, counts: list[int]) -> None:
    tokens = [f"$w_{i}" if i % 3 else "東京" for i in range(len(counts))]
    plot = zipf_plot("$x_", tokens, np.array(counts), {"valid": 0.5})
    assert plot.save(tmp_path).stat().st_size > 5000
    assert f"{sum(count > 0 for count in counts):,} types" in plot.caption
    assert f"{sum(counts):,} tokens" in plot.caption
