"""The settings around the write: when it begins, where it reaches, how the bias starts."""

import pytest
import torch
from training_runs import TINY, assert_equal, lasting_metrics, weights

from firstsight.errors import InputError
from firstsight.lab.lm.run import build_model, open_run
from firstsight.lab.lm.training import train

HEBBIAN = TINY.replace(head="hebbian", T=50, gamma=0.05)


def test_the_bias_starts_at_the_frequencies_of_the_training_text(corpus, tmp_path):
    config = TINY.replace(head="softmax", bias=True, bias_start="unigram", lr=1e-12, optimizer="sgd", steps=1)
    train(corpus, tmp_path / "run", config)
    smoothed = torch.from_numpy(corpus.vocabulary.counts).double() + 1
    found = weights(tmp_path / "run")["head.bias"].double()
    torch.testing.assert_close(found, (smoothed / smoothed.sum()).log(), rtol=1e-5, atol=1e-6)


def test_nothing_is_written_before_its_time_and_all_is_counted(corpus, tmp_path):
    for name, settings in {
        "late": {"write_after": 4},
        "never": {"write_after": 8},
        "plain": {"head": "softmax"},
    }.items():
        train(corpus, tmp_path / name, HEBBIAN.replace(steps=8, eval_every=4, **settings))
    first = [lasting_metrics(tmp_path / name)[0]["valid_loss"] for name in ("late", "never", "plain")]
    assert first[0] == first[1] == first[2]
    late, never, plain = (weights(tmp_path / name) for name in ("late", "never", "plain"))
    assert torch.equal(never["head.weight"], plain["head.weight"])
    assert not torch.equal(late["head.weight"], never["head.weight"])
    assert torch.equal(late["head.counts"], never["head.counts"])
    assert int(late["head.counts"].sum()) == len(late["head.counts"]) + 8 * 48


def test_a_tied_embedding_can_be_spared_the_write(corpus, tmp_path):
    config = HEBBIAN.replace(tied=True, write_embedding=False)
    train(corpus, tmp_path / "run", config)
    opened = open_run(tmp_path / "run", "last").model
    written_VD = opened.head.written
    assert written_VD.norm() > 0
    # A plain model whose own embedding is the head's rows less what was written gives the same activations.
    reference = build_model(len(written_VD), config.replace(tied=False, head="softmax"))
    state = {name: value for name, value in opened.state_dict().items() if name in reference.state_dict()}
    reference.load_state_dict(state | {"embedding": opened.head.weight.detach() - written_VD})
    tokens_BS = torch.arange(12).view(2, 6)
    for model in (opened, reference):
        model.eval()
    torch.testing.assert_close(opened(tokens_BS)[0], reference(tokens_BS)[0])


def test_without_a_gradient_the_spared_embedding_stays_as_it_was(corpus):
    torch.manual_seed(0)
    model = build_model(len(corpus.vocabulary), HEBBIAN.replace(tied=True, write_embedding=False))
    tokens_BS = torch.arange(10).view(2, 5)
    before, _ = model.eval()(tokens_BS)
    rows = model.head.weight.detach().clone()
    model.head.write(torch.randn(10, model.head.in_features), tokens_BS.flatten())
    assert not torch.equal(model.head.weight[:10], rows[:10])
    torch.testing.assert_close(model(tokens_BS)[0], before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rule", ["centered", "shrinkage"])
def test_a_resumed_run_is_as_undisturbed(rule, corpus, tmp_path):
    config = HEBBIAN.replace(rule=rule, bias=True, tied=True, write_embedding=False, T=5, write_after=2, dropout=0.2)
    train(corpus, tmp_path / "whole", config.replace(steps=8))
    train(corpus, tmp_path / "parts", config.replace(steps=3))
    train(corpus, tmp_path / "parts", config.replace(steps=8), resume=True)
    assert_equal(weights(tmp_path / "parts"), weights(tmp_path / "whole"))
    assert lasting_metrics(tmp_path / "parts")[-1] == lasting_metrics(tmp_path / "whole")[-1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias_start": "unigram"}, r"bias_start is 'unigram'; expected zero, or bias to be true"),
        ({"rule": "hebb"}, r"rule is 'hebb'; expected one of paper, scaled"),
        ({"prior_count": 0.0}, "prior_count is 0.0; expected above 0"),
        ({"write_after": -1}, "write_after is -1; expected 0 or more"),
        ({"write_embedding": False, "weight_decay": 0.1}, "weight_decay is 0.1; expected 0 where write_embedding"),
        ({"rule": "shrinkage"}, "rule is 'shrinkage'.*bias to be true"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        HEBBIAN.replace(bias=False, **changes)
