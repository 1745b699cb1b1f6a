"""The passage that a report shows: which one, what the memories gained on it, and what they recalled."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from training_runs import TINY

from firstsight.errors import InputError
from firstsight.lab.data.vocabulary import EOS, UNK, Vocabulary
from firstsight.lab.lm.reader import Segment
from firstsight.lab.lm.run import Run, build_model
from firstsight.lab.reading.memories import Use, memory_of
from firstsight.lab.reading.passage import write_passage
from firstsight.lab.reading.passage.written import LENGTH, choose
from firstsight.memory.recalled import Recalled

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
    vocabulary = Vocabulary(WORDS, np.ones(V), "whitespace")
    return with_corpus(Run(tmp_path, model, vocabulary, "data", TINY, "best", 8), make_text(500, 9))


def with_corpus(run, train, starts=None):
    """A run whose corpus is this training text, and documents of the split that is read."""
    documents = None if starts is None else SimpleNamespace(starts=np.array(starts))
    run.__dict__["corpus"] = SimpleNamespace(split=lambda name: train, documents=lambda split: documents)
    return run


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


def write(folder, trained, tokens, settings, nll=None, memories=None):
    if memories is None:
        given = {name: {k: v for k, v in of.items() if k != "weight"} for name, of in settings.items() if of}
        memories = {name: memory_of(name, Use(trained, tokens), of) for name, of in given.items()}
    write_passage(trained, tokens, "valid", settings, nll or make_nll(len(tokens)), memories)
    text = (folder / "passage.json").read_text(encoding="utf-8")
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def recall(h, tokens, t, memory):
    """What a memory recalls at t, pair by pair, as rows of the file: its neighbours; and the votes for each class."""
    seen = range(max(0, t - memory["size"]), t)
    squared = {j: math.fsum((a - b) ** 2 for a, b in zip(h[j], h[t], strict=True)) for j in seen}
    if "theta" in memory:
        dots = {j: memory["theta"] * math.fsum(a * b for a, b in zip(h[j], h[t], strict=True)) for j in seen}
        weight = {j: math.exp(dots[j] - max(dots.values())) for j in seen}
    else:
        nearest = sorted(seen, key=lambda j: (squared[j], t - j))[: memory["k"]]
        weight = {j: 1 / (1e-3 + squared[j]) for j in nearest}
    share = {j: value / math.fsum(weight.values()) for j, value in weight.items()}
    near = sorted(weight, key=lambda j: (-weight[j], t - j))[:3]
    pairs = [[j, int(tokens[j]), close(share[j]), close(math.sqrt(squared[j]))] for j in near]
    vote = {}
    for j in share:
        vote.setdefault(int(tokens[j]), []).append(share[j])
    vote = {label: math.fsum(parts) for label, parts in vote.items()}
    return pairs, vote


def close(value):
    return pytest.approx(value, rel=1e-9, abs=1e-11)


def assert_recalls(passage, h, tokens):
    held = {begin + i: index for begin, ids in passage["contexts"]["text"] for i, index in enumerate(ids)}
    for i, index in enumerate(passage["tokens"]):
        t = passage["first"] + i
        assert index == tokens[t]
        assert passage["words"][str(index)] == WORDS[index]
        for name in ("cache", "mbpa"):
            pairs, vote = recall(h, tokens, t, passage["settings"][name])
            assert passage["neighbours"][name][i] == pairs, (name, t)
            best = passage["guesses"][name][i]
            assert best == [[label, close(vote[label])] for label, _ in best], (name, t)
            assert [p for _, p in best] == [close(p) for p in sorted(vote.values(), reverse=True)[:3]], (name, t)
            for place, *_ in pairs:
                for at in range(max(0, place - 6), place + 1):
                    assert held[at] == tokens[at]
                    assert passage["words"][str(held[at])] == WORDS[held[at]]


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
    monkeypatch.setattr("firstsight.lab.reading.passage.written.LENGTH", 45)
    monkeypatch.setattr("firstsight.lab.reading.passage.votes.QUERIES", 7)
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
    assert [len(pairs) for pairs in passage["neighbours"]["cache"][:5]] == [0, 1, 2, 3, 3]
    assert [len(pairs) for pairs in passage["neighbours"]["mbpa"][:4]] == [0, 1, 2, 2]
    assert_recalls(passage, read_at_once(trained, tokens), tokens)


def test_of_pairs_alike_the_more_recent_comes_first(trained, tmp_path, monkeypatch):
    hidden = torch.from_numpy(np.random.default_rng(4).integers(-1, 2, (80, 12))).double()
    hidden[:, 2:] = 0
    tokens = make_text(80)
    segment = Segment(0, False, hidden[None], torch.from_numpy(tokens[None].astype(np.int64)))
    monkeypatch.setattr(Run, "text", lambda *_, **__: [segment])
    passage = write(tmp_path, trained, tokens, make_settings(size=50, k=30, theta=1.0))
    assert_recalls(passage, hidden.tolist(), tokens)
    alike = [pairs for pairs in passage["neighbours"]["mbpa"] if len({share for *_, share, _ in pairs}) == 1]
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
    views = {"cache": {"cache": 0.1}, "mbpa": {"mbpa": 0.04}, "all": both}
    first = passage["first"]
    assert len(passage["tokens"]) == 400
    for name, weights in views.items():
        got = passage["gain"][name]
        want = [by_hand(t, weights) for t in range(first, 400)]
        want[0] = 0.0  # empty memories leave their weight to the model
        assert got == pytest.approx(want, rel=1e-11, abs=1e-12)
        assert passage["split_mean"][name] == pytest.approx(math.fsum(want) / 400, rel=1e-11)
    for t in range(1, 400):  # the mixture's probability is the weighted sum
        own = {name: passage["nll"][name][t] for name in both}
        given = {name: 0.0 if nll is None else math.exp(-nll) for name, nll in own.items()}
        mixed = 0.86 * math.exp(-passage["nll"]["model"][t]) + 0.1 * given["cache"] + 0.04 * given["mbpa"]
        assert math.exp(passage["gain"]["all"][t] - passage["nll"]["model"][t]) == pytest.approx(mixed, rel=1e-11)
    assert min(got) == pytest.approx(math.log(0.86), abs=0.05)
    assert passage["nll"]["model"] == nll["model"].tolist()
    assert [x is None for x in passage["nll"]["cache"]] == np.isinf(nll["cache"]).tolist()


def test_the_models_guesses_are_its_likeliest_words(trained, tmp_path):
    tokens = make_text(60)
    passage = write(tmp_path, trained, tokens, make_settings())
    weight = trained.model.head.weight.tolist()
    for h, guesses in zip(read_at_once(trained, tokens), passage["guesses"]["model"], strict=True):
        z = [math.fsum(a * b for a, b in zip(h, row, strict=True)) for row in weight]
        total = math.fsum(math.exp(x - max(z)) for x in z)
        p = {label: math.exp(x - max(z)) / total for label, x in enumerate(z)}
        assert guesses == [[label, close(p[label])] for label in sorted(p, key=lambda label: -p[label])[:3]]


def test_how_long_activations_are(trained, tmp_path, monkeypatch):
    monkeypatch.setattr("firstsight.lab.reading.passage.written.LENGTH", 20)
    tokens = make_text(60)
    passage = write(tmp_path, trained, tokens, make_settings())
    h = read_at_once(trained, tokens)[passage["first"] :][:20]
    lengths = [math.sqrt(math.fsum(x * x for x in one)) for one in h]
    apart = [math.fsum((a - b) ** 2 for a, b in zip(one, other, strict=True)) for one in h for other in h]
    assert passage["activations"]["length"] == pytest.approx(math.fsum(lengths) / 20, rel=1e-11)
    assert passage["activations"]["apart"] == pytest.approx(math.sqrt(math.fsum(apart) / 400), rel=1e-11)


class Shelf:
    """A memory over a store of the training text: it always recalls the same two entries."""

    size, stored = 0, True

    def seek(self, position):
        assert position >= 0

    def recalled(self, query_QD, window, top):
        assert len(window.keys_WD) == len(window.labels_W) == 0
        assert (top, query_QD.dtype) == (3, torch.float64)
        label = torch.tensor([[7, 9]]).expand(len(query_QD), 2)
        share = torch.tensor([[0.75, 0.25]]).expand(len(query_QD), 2)
        return Recalled(torch.tensor([[4, 30]]).expand(len(query_QD), 2), label, share, 2 * share, label, share)


class Mute(Shelf):
    """A memory that recalls no pairs."""

    def recalled(self, query_QD, window, top):
        return None


def test_a_memory_over_a_store_of_the_training_text(trained, tmp_path):
    train = with_corpus(trained, np.arange(40, dtype=np.uint32) % V).corpus.split("train")
    passage = write(tmp_path, trained, make_text(30), make_settings(), memories={"cache": Mute(), "mbpa": Shelf()})
    assert passage["stored"] == ["mbpa"]
    assert passage["neighbours"] == {"mbpa": [[[4, 7, 0.75, 1.5], [30, 9, 0.25, 0.5]]] * 30}
    assert passage["guesses"]["mbpa"] == [[[7, 0.75], [9, 0.25]]] * 30
    assert "cache" not in passage["guesses"]
    runs = [[0, train[:5].tolist()], [24, train[24:31].tolist()]]
    assert passage["contexts"] == {"text": [], "train": runs}


def test_one_memory_alone(trained, tmp_path):
    settings = make_settings() | {"cache": None}
    nll = make_nll(60)
    del nll["cache"]
    passage = write(tmp_path, trained, make_text(60), settings, nll)
    assert passage["settings"] == settings
    assert set(passage["split_mean"]) == {"model", "mbpa", "all"}
    assert set(passage["gain"]) == {"mbpa", "all"}
    assert passage["gain"]["mbpa"] == passage["gain"]["all"]
    assert set(passage["nll"]) == set(passage["guesses"]) == {"model", "mbpa"}
    assert set(passage["neighbours"]) == {"mbpa"}


def test_what_is_not_finite_is_null(trained, tmp_path):
    nll = make_nll(20)
    nll["model"][7], nll["model"][8], nll["cache"][9] = np.inf, np.nan, np.inf
    settings = make_settings()
    settings["cache"]["weight"], settings["mbpa"]["weight"] = 1.0, 0.0
    passage = write(tmp_path, trained, make_text(20), settings, nll)
    assert [passage["nll"]["model"][t] for t in (7, 8)] == [None, None]
    assert [passage["gain"]["cache"][t] for t in (7, 8, 9)] == [None, None, None]
    assert (passage["gain"]["mbpa"][9], passage["split_mean"]["cache"]) == (0, None)


def passage_by_hand(tokens):
    """The rule in words: the first line that begins in the second half, or the end of the text."""
    begins = [t for t in range(len(tokens)) if t == 0 or tokens[t - 1] == EOS_ID]
    late = [t for t in begins if t >= len(tokens) // 2]
    first = late[0] if late else len(tokens) // 2
    if first + LENGTH > len(tokens):
        first = max(0, len(tokens) - LENGTH)
    return first, min(len(tokens), first + LENGTH)


@pytest.mark.parametrize("length", [1, 2, 3, 1999, 2000, 2001, 3999, 4000, 4001, 5600, 12000])
@pytest.mark.parametrize("lines", ["every", "few", "none", "last", "at half", "before half"])
def test_the_passage_is_chosen_by_its_rule(length, lines):
    tokens = np.full(length, 5, dtype=np.uint32)
    if lines in ("every", "few"):
        tokens[:: 3 if lines == "every" else 3201] = EOS_ID
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
