"""The passage that a report shows: which one, what the memories gained on it, and what they recalled."""

import json
import math

import numpy as np
import pytest
import torch
from training_runs import TINY

from firstsight.errors import InputError
from firstsight.lab.data.vocabulary import EOS, UNK, Vocabulary
from firstsight.lab.lm.reader import Segment
from firstsight.lab.lm.run import Run, build_model
from firstsight.lab.reading.passage import LENGTH, choose, gains, write_passage

V, EOS_ID = 23, 1
WORDS = [UNK, EOS, *(f"w{i}" for i in range(V - 2))]


@pytest.fixture
def trained(tmp_path):
    """A random model in float64, whose activations a loop can follow exactly, spread far enough to tell pairs apart."""
    torch.manual_seed(3)
    model = build_model(V, TINY).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return Run(tmp_path, model, Vocabulary(WORDS, np.ones(V), "whitespace"), "data", TINY, "best", 8)


def make_text(length, seed=0):
    return np.random.default_rng(seed).integers(0, V, length).astype(np.uint32)


def make_nll(length, seed=1):
    noise = np.random.default_rng(seed)
    nll = {name: noise.uniform(0.1, 12, length).astype(np.float32) for name in ("model", "cache", "mbpa")}
    nll["cache"][noise.random(length) < 0.5] = np.inf
    nll["cache"][0] = nll["mbpa"][0] = nll["model"][0]  # empty memories
    return nll


def make_settings(size=10, k=4, theta=0.7, mbpa_size=None):
    cache = {"size": size, "theta": theta, "weight": 0.1}
    return {"cache": cache, "mbpa": {"size": mbpa_size or size, "k": k, "lr": 0.3, "weight": 0.04}}


def write(folder, trained, tokens, settings, nll=None):
    write_passage(trained, tokens, "valid", settings, nll or make_nll(len(tokens)))
    text = (folder / "passage.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def recall(h, tokens, t, memory):
    """What a memory recalls at t, pair by pair, as entries of the file."""
    seen = range(max(0, t - memory["size"]), t)
    if "theta" in memory:
        dots = {j: memory["theta"] * math.fsum(a * b for a, b in zip(h[j], h[t], strict=True)) for j in seen}
        weight = {j: math.exp(dots[j] - max(dots.values())) for j in seen}
    else:
        squared = {j: math.fsum((a - b) ** 2 for a, b in zip(h[j], h[t], strict=True)) for j in seen}
        nearest = sorted(seen, key=lambda j: (squared[j], t - j))[: memory["k"]]
        weight = {j: 1 / (1e-3 + squared[j]) for j in nearest}
    total = math.fsum(weight.values())
    return [
        {
            "ago": t - j,
            "weight": pytest.approx(weight[j] / total, rel=1e-9),
            "before": " ".join(WORDS[token] for token in tokens[max(0, j - 6) : j]),
            "word": WORDS[tokens[j]],
        }
        for j in sorted(weight, key=lambda j: (-weight[j], t - j))[:3]
    ]


def assert_recalls(passage, h, tokens):
    for t, token in enumerate(passage["tokens"], start=passage["first"]):
        assert token["word"] == WORDS[tokens[t]]
        for name in ("cache", "mbpa"):
            assert token[f"{name}_top"] == recall(h, tokens, t, passage["settings"][name]), (name, t)


def read_at_once(trained, tokens):
    inputs = torch.tensor([[EOS_ID, *tokens[:-1].tolist()]])
    with torch.no_grad():
        return trained.model.eval()(inputs)[0][0].tolist()


@pytest.mark.parametrize(
    "settings",
    [
        make_settings(),
        make_settings(size=1, k=1),
        make_settings(size=2, k=3, mbpa_size=40),
        make_settings(size=70, k=2, mbpa_size=5, theta=0.2),
        make_settings(size=1000, k=1000, theta=0.0),
    ],
)
def test_contexts_equal_a_loop_over_pairs(trained, settings, tmp_path, monkeypatch):
    monkeypatch.setattr("firstsight.lab.reading.passage.LENGTH", 45)
    monkeypatch.setattr("firstsight.lab.reading.passage.QUERIES", 7)
    monkeypatch.setattr("firstsight.lab.lm.reader.BLOCK", 16)
    tokens = make_text(190)
    passage = write(tmp_path, trained, tokens, settings)
    assert len(passage["tokens"]) == 45
    assert passage["first"] > 90
    assert_recalls(passage, read_at_once(trained, tokens), tokens)


def test_a_text_from_its_first_token_on(trained, tmp_path):
    tokens = make_text(30)
    passage = write(tmp_path, trained, tokens, make_settings(size=5, k=2))
    assert (passage["first"], len(passage["tokens"])) == (0, 30)
    assert [len(token["cache_top"]) for token in passage["tokens"][:5]] == [0, 1, 2, 3, 3]
    assert [len(token["mbpa_top"]) for token in passage["tokens"][:4]] == [0, 1, 2, 2]
    assert_recalls(passage, read_at_once(trained, tokens), tokens)


def test_of_pairs_alike_the_more_recent_comes_first(trained, tmp_path, monkeypatch):
    hidden = torch.from_numpy(np.random.default_rng(4).integers(-1, 2, (80, 2))).float()
    tokens = make_text(80)
    segment = Segment(0, False, hidden[None], torch.from_numpy(tokens[None].astype(np.int64)))
    monkeypatch.setattr(Run, "text", lambda *_, **__: [segment])
    passage = write(tmp_path, trained, tokens, make_settings(size=50, k=30, theta=1.0))
    assert_recalls(passage, hidden.tolist(), tokens)
    alike = [token for token in passage["tokens"] if len({entry["weight"] for entry in token["mbpa_top"]}) == 1]
    assert len(alike) > 40, "most have three pairs at the same distance"


def test_gains_equal_a_computation_by_hand(trained, tmp_path):
    nll = make_nll(400)
    tokens = make_text(400)
    passage = write(tmp_path, trained, tokens, make_settings(), nll)
    p = {name: [math.exp(-float(x)) for x in nll[name]] for name in nll}

    def by_hand(t, weights):
        mixed = (1 - sum(weights.values())) * p["model"][t] + sum(w * p[name][t] for name, w in weights.items())
        return math.log(mixed) - math.log(p["model"][t])

    both = {"cache": 0.1, "mbpa": 0.04}
    views = {"cache": {"cache": 0.1}, "mbpa": {"mbpa": 0.04}, "both": both}
    for name, weights in views.items():
        got = [token[name] for token in passage["tokens"]]
        want = [by_hand(t, weights) for t in range(passage["first"], passage["first"] + 250)]
        assert got == pytest.approx(want, rel=1e-12, abs=1e-12)
        assert passage["mean"][name] == pytest.approx(math.fsum(want) / 250, rel=1e-11)
        everywhere = [by_hand(t, weights) for t in range(1, 400)]
        assert passage["split_mean"][name] == pytest.approx(math.fsum(everywhere) / 400, rel=1e-11)
        assert gains(nll, weights)[0] == pytest.approx(0, abs=1e-12), "an empty memory leaves its weight to the model"
    assert min(got) == pytest.approx(math.log(0.86), abs=0.05)
    assert [token["model"] for token in passage["tokens"]] == nll["model"][passage["first"] :][:250].tolist()


def test_one_memory_alone(trained, tmp_path):
    settings = make_settings() | {"cache": None}
    nll = make_nll(60)
    del nll["cache"]
    passage = write(tmp_path, trained, make_text(60), settings, nll)
    assert passage["settings"] == settings
    assert set(passage["mean"]) == {"model", "mbpa"}
    for token in passage["tokens"]:
        assert (token["cache"], token["both"]) == (None, None)
        assert "cache_top" not in token
        assert token["mbpa"] is not None


def test_what_is_not_finite_is_null(trained, tmp_path):
    nll = make_nll(20)
    nll["model"][7], nll["model"][8], nll["cache"][9] = np.inf, np.nan, np.inf
    settings = make_settings()
    settings["cache"]["weight"], settings["mbpa"]["weight"] = 1.0, 0.0
    passage = write(tmp_path, trained, make_text(20), settings, nll)
    tokens = passage["tokens"]
    assert [tokens[t]["model"] for t in (7, 8)] == [None, None]
    assert [tokens[t]["cache"] for t in (7, 8, 9)] == [None, None, None]
    assert (tokens[9]["mbpa"], passage["mean"]["cache"]) == (0, None)


def passage_by_hand(tokens):
    """The rule in words: the first line that begins in the second half, or the end of the text."""
    begins = [t for t in range(len(tokens)) if t == 0 or tokens[t - 1] == EOS_ID]
    late = [t for t in begins if t >= len(tokens) // 2]
    first = late[0] if late else len(tokens) // 2
    if first + LENGTH > len(tokens):
        first = max(0, len(tokens) - LENGTH)
    return first, min(len(tokens), first + LENGTH)


@pytest.mark.parametrize("length", [1, 2, 3, 249, 250, 251, 499, 500, 501, 700, 1500])
@pytest.mark.parametrize("lines", ["every", "few", "none", "last", "at half", "before half"])
def test_the_passage_is_chosen_by_its_rule(length, lines):
    tokens = np.full(length, 5, dtype=np.uint32)
    if lines in ("every", "few"):
        tokens[:: 3 if lines == "every" else 401] = EOS_ID
    elif lines != "none":
        tokens[{"last": -1, "at half": length // 2, "before half": length // 2 - 1}[lines]] = EOS_ID
    assert choose(tokens, EOS_ID) == passage_by_hand(tokens)


def test_mistakes_are_named(trained, tmp_path):
    tokens, nll, settings = make_text(40), make_nll(40), make_settings()
    with pytest.raises(InputError, match="settings of one: cache, mbpa"):
        write(tmp_path, trained, tokens, {"cache": None}, nll)
    with pytest.raises(InputError, match=r"NLLs of mbpa are missing; expected one for each of the split's 40 tokens"):
        write(tmp_path, trained, tokens, settings, {name: nll[name] for name in ("model", "cache")})
    with pytest.raises(InputError, match=r"NLLs of cache are of shape \[39\]"):
        write(tmp_path, trained, tokens, settings, nll | {"cache": nll["cache"][1:]})
    with pytest.raises(InputError, match="the model knows the ids 0 to 22"):
        write(tmp_path, trained, tokens + 1, settings, nll)
    assert not list(tmp_path.iterdir())
