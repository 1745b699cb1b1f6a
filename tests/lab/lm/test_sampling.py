from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.data.corpus import save_corpus
from firstsight.lab.data.documents import Documents
from firstsight.lab.data.vocabulary import Vocabulary
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.evaluation import evaluate
from firstsight.lab.lm.run import open_run
from firstsight.lab.lm.sampling import DocumentSampler
from firstsight.lab.lm.training import train
from firstsight.lab.runs.metrics import read_metrics

WORDS = Vocabulary(["<unk>", "<eos>", *(f"w{i}" for i in range(18))], np.arange(20), "whitespace")


def corpus_of(folder: Path, sizes: list[int], named: bool = True):
    rng = np.random.default_rng(0)
    text = {"train": rng.integers(20, size=400), "valid": rng.integers(20, size=50)}
    text["test"] = np.arange(sum(sizes)) % 20
    documents = Documents([f"d{i}" for i in range(len(sizes))], np.cumsum([0, *sizes], dtype=np.int64))
    blocks = {split: [ids.astype(np.uint32)] for split, ids in text.items()}
    return save_corpus(folder, "tiny", WORDS, blocks, {}, documents={"test": documents} if named else {})


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any), st.integers(1, 15), st.integers(0, 5))
def test_whole_documents_each_at_most_once(tmp_path_factory, sizes, count, step):
    corpus = corpus_of(tmp_path_factory.mktemp("c"), sizes)
    sample = DocumentSampler(corpus, count, seed=3).draw(step)
    filled = [i for i, size in enumerate(sizes) if size]
    chosen = sorted(np.random.default_rng([3, step]).choice(filled, min(count, len(filled)), replace=False))
    starts = np.cumsum([0, *sizes])
    expected = [token % 20 for i in chosen for token in range(starts[i], starts[i + 1])]
    assert sample.tokens.tolist() == expected
    assert sample.about == {"seed": [3, step], "documents": len(chosen), "tokens": len(expected)}


def test_each_step_draws_anew_and_the_seed_brings_it_back(tmp_path):
    corpus = corpus_of(tmp_path, [5] * 200)
    sampler = DocumentSampler(corpus, 20, seed=1)
    one, two = sampler.draw(100).tokens, sampler.draw(200).tokens
    assert not np.array_equal(one, two)
    assert np.array_equal(one, DocumentSampler(corpus, 20, seed=1).draw(100).tokens)
    assert not np.array_equal(one, DocumentSampler(corpus, 20, seed=2).draw(100).tokens)


def test_without_documents(tmp_path):
    with pytest.raises(InputError, match="does not know where its test documents begin"):
        DocumentSampler(corpus_of(tmp_path, [5], named=False), 1, 0)


def test_training_records_what_brings_its_samples_back(tmp_path):
    corpus = corpus_of(tmp_path / "data", [7] * 40)
    config = Config(embedding=8, hidden=8, batch=2, length=5, steps=6, eval_every=2, test_documents=6)
    train(corpus, tmp_path / "run", config)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    samples = [line["test_sample"] for line in lines]
    assert [sample["seed"] for sample in samples] == [[0, 2], [0, 4], [0, 6]]
    trained = open_run(tmp_path / "run", "last")
    drawn = DocumentSampler(corpus, 6, 0).draw(6)
    again = evaluate(trained.model, drawn.tokens, WORDS.counts, eos_id=WORDS.eos_id, streams=samples[-1]["streams"])
    assert samples[-1]["loss"] == pytest.approx(again.nll, rel=1e-6)
    assert {key: samples[-1][key] for key in drawn.about} == drawn.about
    # It is watched only: the same run without it ends in the same weights.
    train(corpus, tmp_path / "plain", replace(config, test_documents=0))
    plain = open_run(tmp_path / "plain", "last").model.state_dict()
    assert all(value.equal(plain[name]) for name, value in trained.model.state_dict().items())
