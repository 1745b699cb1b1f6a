"""Dynamic evaluation against a plain loop: one part after another, autograd, float64."""

import copy
import itertools

import numpy as np
import pytest
import torch

from firstsight.errors import InputError
from firstsight.functional import IGNORE_INDEX
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.reader import Plain, Text, read
from firstsight.lab.lm.run import build_model
from firstsight.lab.reading import dynamic
from firstsight.lab.reading.dynamic import Dynamic, Learning, gradient_rms

V, EOS = 23, 0
SHAPES = {
    "tied, projected": Config(embedding=6, hidden=7, head="hebbian", projection=True, tied=True),
    "softmax, two layers": Config(embedding=5, hidden=5, head="softmax", projection=False, tied=False, layers=2),
    "no bias": Config(embedding=6, hidden=6, head="softmax", projection=False, bias=False, dropout=0.4),
}


def make(name, seed=0):
    torch.manual_seed(seed)
    return build_model(V, SHAPES[name]).double()


def some_tokens(number, seed=0):
    return np.random.default_rng(seed).integers(0, V, size=number)


def plain_logits(model, head, input_1S, state):
    """Rows times activations, the whole [S, V] of them."""
    hidden, state = model(input_1S, state)
    logits = hidden[0] @ head.weight.t()
    return logits if head.bias is None else logits + head.bias, state


def plain_loop(model, tokens, learning, rms=None):
    """Read part by part; each is scored, then learnt from."""
    model = copy.deepcopy(model).eval()
    fixed = copy.deepcopy(model)
    names = {n: p for n, p in model.named_parameters() if p.requires_grad}
    names = {n: p for n, p in names.items() if learning.scope == "model" or n.startswith("head.")}
    trained = {n: p.detach().clone() for n, p in names.items()}
    mean = None if rms is None else sum(rms[n].sum() for n in names) / sum(p.numel() for p in names.values())
    found, state = [], None
    before = np.concatenate([[EOS], tokens[:-1]])
    for first in range(0, len(tokens), learning.length):
        last = first + learning.length
        input_1S = torch.from_numpy(before[first:last])[None]
        target_S = torch.from_numpy(tokens[first:last])
        reading = model if learning.scope == "model" else fixed
        logits, state = plain_logits(reading, model.head, input_1S, state)
        state = (state[0].detach(), state[1].detach())
        nll_S = torch.logsumexp(logits, 1) - logits[torch.arange(len(target_S)), target_S]
        found += nll_S.tolist()
        if len(target_S) < learning.length:
            break
        model.zero_grad()
        nll_S.mean().backward()
        with torch.no_grad():
            for name, parameter in names.items():
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                back = trained[name] - parameter
                if learning.rule == "sgd":
                    parameter += -learning.lr * gradient + learning.decay * back
                else:
                    size = rms[name] + dynamic.EPSILON
                    share = torch.clamp(learning.decay * rms[name] / mean, max=1)
                    parameter += -learning.lr * gradient / size + share * back
    return np.array(found)


def plain_rms(model, tokens, length, streams):
    """Root mean squares of the gradients, by a loop over the parts of all streams."""
    model = copy.deepcopy(model).eval()
    edges = [len(tokens) * s // streams for s in range(streams + 1)]
    longest = max(b - a for a, b in itertools.pairwise(edges))
    names = {name: p for name, p in model.named_parameters() if p.requires_grad}
    squares = {name: torch.zeros_like(p) for name, p in names.items()}
    before, states, parts = np.concatenate([[EOS], tokens[:-1]]), [None] * streams, 0
    for first in range(0, longest - length + 1, length):
        losses = []
        for s in range(streams):
            here = slice(edges[s] + first, min(edges[s] + first + length, edges[s + 1]))
            input_1S, target_S = torch.from_numpy(before[here])[None], torch.from_numpy(tokens[here])
            logits, state = plain_logits(model, model.head, input_1S, states[s])
            states[s] = (state[0].detach(), state[1].detach())
            losses.append(torch.nn.functional.cross_entropy(logits, target_S, reduction="none"))
        model.zero_grad()
        torch.cat(losses).mean().backward()
        parts += 1
        for name, p in names.items():
            squares[name] += 0 if p.grad is None else p.grad**2
    return {name: (one / parts).sqrt() for name, one in squares.items()}


def dynamic_nll(model, tokens, learning, rms=None, **text):
    found = {}
    reader = Dynamic(model, learning, rms)
    reader_read = reader.read
    parts = []
    reader.read = lambda segment: parts.append(reader_read(segment)) or parts[-1]  # float64, which read() rounds
    read(Text(model, tokens, EOS, **text), {"model": Plain(model.head), "dynamic": reader}, found=found)
    return torch.cat(parts, 1)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("scope", ["model", "rows"])
@pytest.mark.parametrize(("rule", "lr", "decay"), [("sgd", 0.5, 0.0), ("sgd", 0.3, 0.05), ("rms", 0.02, 0.1)])
@pytest.mark.parametrize(("number", "length"), [(60, 5), (47, 7)])
def test_it_is_the_plain_loop(name, scope, rule, lr, decay, number, length):
    model, tokens = make(name), some_tokens(number)
    learning = Learning(rule, lr, decay, scope, length)
    rms = gradient_rms(model, some_tokens(200, 1), eos_id=EOS, length=length) if rule == "rms" else None
    before = copy.deepcopy(model.state_dict())
    found = dynamic_nll(model, tokens, learning, rms)
    np.testing.assert_allclose(found[0].numpy(), plain_loop(model, tokens, learning, rms), rtol=0, atol=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", SHAPES)
def test_root_mean_squares_are_those_of_a_loop(name, monkeypatch):
    monkeypatch.setattr(dynamic, "MEASURED_STREAMS", 3)
    model, tokens = make(name), some_tokens(90, 4)
    found = gradient_rms(model, tokens, eos_id=EOS, length=6)
    for key, expected in plain_rms(model, tokens, 6, 3).items():
        torch.testing.assert_close(found[key], expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("size", "chunk"), [(1, 1), (3, 8), (4, 17), (64, 64)])
def test_where_the_text_is_cut_changes_nothing(size, chunk):
    model, tokens, learning = make("tied, projected"), some_tokens(61), Learning("sgd", 0.4, 0.02, length=5)
    whole = dynamic_nll(model, tokens, learning)
    parts = dynamic_nll(model, tokens, learning, size=size, chunk=chunk)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize("rule", ["sgd", "rms"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cut", [{}, {"size": 5}, {"size": 7, "chunk": 20}, {"streams": 3}])
def test_rate_0_is_the_plain_evaluation_bit_for_bit(rule, dtype, cut):
    model, tokens = make("tied, projected").to(dtype), some_tokens(60)
    rms = gradient_rms(model, tokens, eos_id=EOS, length=5)
    found = read(
        Text(model, tokens, EOS, **cut),
        {"model": Plain(model.head), "dynamic": Dynamic(model, Learning(rule, 0.0, 0.1, length=5), rms)},
    )
    assert np.array_equal(found["model"], found["dynamic"])


def test_no_token_is_scored_by_what_was_learnt_from_it():
    model, tokens, learning = make("tied, projected"), some_tokens(40), Learning("sgd", 0.5, 0.0, length=5)
    others = tokens.copy()
    others[23:] = (others[23:] + 1) % V
    same, other = (dynamic_nll(model, one, learning) for one in (tokens, others))
    assert torch.equal(same[:, :23], other[:, :23])
    assert not torch.equal(same[:, 23:], other[:, 23:])


def test_streams_learn_together():
    """Two streams: the step is along the mean over both, of which one is a token shorter."""
    model, tokens, learning = make("softmax, two layers"), some_tokens(41), Learning("sgd", 0.5, 0.0, length=7)
    found = dynamic_nll(model, tokens, learning, streams=2)
    other, edges, states = copy.deepcopy(model).eval(), [0, 20, 41], [None, None]
    before, expected = np.concatenate([[EOS], tokens[:-1]]), torch.zeros(2, 21, dtype=torch.float64)
    for first in range(0, 21, 7):
        losses = []
        for s in range(2):
            here = slice(edges[s] + first, min(edges[s] + first + 7, edges[s + 1]))
            logits, state = plain_logits(other, other.head, torch.from_numpy(before[here])[None], states[s])
            states[s] = (state[0].detach(), state[1].detach())
            losses.append(torch.nn.functional.cross_entropy(logits, torch.from_numpy(tokens[here]), reduction="none"))
            expected[s, first : first + len(losses[-1])] = losses[-1].detach()
        other.zero_grad()
        torch.cat(losses).mean().backward()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter -= 0.5 * (0 if parameter.grad is None else parameter.grad)
    torch.testing.assert_close(found[0, :20], expected[0, :20], rtol=0, atol=1e-9)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-9)


def test_it_learns_a_text_that_repeats():
    model, learning = make("tied, projected"), Learning("sgd", 0.1, 0.0, length=5)
    found = dynamic_nll(model, np.tile(some_tokens(10), 40), learning)[0]
    assert float(found[-100:].mean()) < 0.85 * float(found[:100].mean())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rule": "adam"}, "rule is 'adam'; expected sgd or rms"),
        ({"scope": "all"}, "scope is 'all'"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"decay": 1.5}, "decay is 1.5"),
        ({"length": 0}, "length is 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(given, said):
    with pytest.raises(InputError, match=said):
        Learning(**given)


def test_rms_without_what_it_divides_by_is_refused():
    model = make("no bias")
    with pytest.raises(InputError, match="root mean squares of the gradients are missing"):
        Dynamic(model, Learning("rms"))
    with pytest.raises(InputError, match=r"are without head\.weight"):
        Dynamic(model, Learning("rms", scope="rows"), {})


def test_ignored_steps_are_not_learnt_from():
    model, learning = make("no bias"), Learning("sgd", 0.5, 0.0, length=5)
    reader = Dynamic(model, learning)
    text = Text(model, some_tokens(10), EOS)
    segment = next(iter(text))
    nothing = segment._replace(target=torch.full_like(segment.target, IGNORE_INDEX))
    reader.read(nothing)
    assert all(torch.equal(a, b) for a, b in zip(reader.model.parameters(), model.parameters(), strict=True))
