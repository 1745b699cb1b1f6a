"""Training with the losses of large vocabularies: sampled and adaptive softmax, with the write and without."""

import pytest
import torch
from test_training_ends import stop_after
from training_runs import TINY, assert_equal, lasting_metrics, metrics, weights

from firstsight.errors import InputError
from firstsight.heads import AdaptiveSoftmax, HebbianAdaptiveSoftmax, HebbianSampledSoftmax, SampledSoftmax
from firstsight.lab.lm.evaluation import evaluate
from firstsight.lab.lm.lstm import num_parameters
from firstsight.lab.lm.run import build_model, open_run
from firstsight.lab.lm.training import train
from firstsight.lab.reading.moments import measure_moments

LOSSES = {"sampled": {"samples": 5}, "adaptive": {"cutoffs": "4,9"}}
KINDS = {
    ("sampled", "softmax"): SampledSoftmax,
    ("sampled", "hebbian"): HebbianSampledSoftmax,
    ("adaptive", "softmax"): AdaptiveSoftmax,
    ("adaptive", "hebbian"): HebbianAdaptiveSoftmax,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("head", ["softmax", "hebbian"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_run_is_trained_resumed_and_read(loss, head, tied, corpus, tmp_path, monkeypatch):
    config = TINY.replace(head=head, tied=tied, bias=True, bias_start="unigram", checkpoint_every=2, **LOSSES[loss])
    train(corpus, tmp_path / "straight", config)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            train(corpus, tmp_path / "stopped", config)
    train(corpus, tmp_path / "stopped", config, resume=True)
    assert_equal(weights(tmp_path / "stopped"), weights(tmp_path / "straight"))
    assert lasting_metrics(tmp_path / "stopped") == lasting_metrics(tmp_path / "straight")
    run = open_run(tmp_path / "straight")
    assert type(run.model.head) is KINDS[loss, head]
    # Evaluations are over all classes: the probabilities of all words sum to 1.
    hidden = torch.randn(3, run.model.head.in_features)
    total = sum(run.model.head.nll(hidden, torch.full((3,), v)).neg().exp() for v in range(run.model.num_types))
    torch.testing.assert_close(total, torch.ones(3))
    found = evaluate(run.model, corpus.split("valid"), corpus.vocabulary.counts, eos_id=corpus.vocabulary.eos_id)
    assert 0 < found.nll < metrics(tmp_path / "straight")[0]["valid_loss"] + 1


def test_an_adaptive_softmax_is_smaller(corpus):
    sizes = [
        num_parameters(build_model(1000, TINY.replace(bias=False, cutoffs=cutoffs))) for cutoffs in ("", "100,400")
    ]
    D = TINY.embedding
    tails = 300 * (D // 4) + D * (D // 4) + 600 * max(1, D // 16) + D * max(1, D // 16)
    assert sizes[0] - sizes[1] == 1000 * D - (102 * D + tails)


def test_what_needs_one_matrix_of_rows_says_so(corpus, tmp_path):
    train(corpus, tmp_path / "run", TINY.replace(head="hebbian", cutoffs="4,9"))
    run = open_run(tmp_path / "run")
    with pytest.raises(InputError, match=r"of several widths.*trained without --cutoffs"):
        measure_moments(run.model, corpus.split("valid"), eos_id=corpus.vocabulary.eos_id)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cutoffs": "4,x"}, "cutoffs is '4,x'; expected auto, or whole numbers that rise"),
        ({"cutoffs": "auto", "samples": 5}, "expected none beside samples"),
    ],
)
def test_settings_that_are_none(settings, said):
    with pytest.raises(InputError, match=said):
        TINY.replace(**settings)


def test_cutoffs_beyond_the_vocabulary(corpus, tmp_path):
    with pytest.raises(InputError, match="below the number of classes"):
        train(corpus, tmp_path / "run", TINY.replace(cutoffs="4,5000"))
    assert not (tmp_path / "run").exists()
