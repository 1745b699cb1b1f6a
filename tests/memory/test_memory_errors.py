"""What the memories refuse, what they say, and that nothing is remembered then."""

import copy

import pytest
import torch
from memory_reference import make_head, make_stream

from firstsight import InputError, MbPA, NeuralCache, score_stream
from firstsight.memory import CacheGrid, MbPAGrid, mix

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: NeuralCache(0), "size.* 0"),
        (lambda: NeuralCache(-3), "size.* -3"),
        (lambda: NeuralCache(theta=NAN), "theta.* nan"),
        (lambda: NeuralCache(theta=INF), "theta.* inf"),
        (lambda: NeuralCache(theta=-0.25), "theta.* -0.25"),
        (lambda: NeuralCache(block=0), "block.* 0"),
        (lambda: NeuralCache(block=-2), "block.* -2"),
        (lambda: MbPA(0), "size.* 0"),
        (lambda: MbPA(k=0), "k .*0"),
        (lambda: MbPA(k=-7), "k .*-7"),
        (lambda: MbPA(steps=0), "steps.* 0"),
        (lambda: MbPA(lr=NAN), "lr.* nan"),
        (lambda: MbPA(lr=-0.3), "lr.* -0.3"),
        (lambda: MbPA(lr=INF), "lr.* inf"),
        (lambda: MbPA(beta=NAN), "beta.* nan"),
        (lambda: MbPA(beta=-1.5), "beta.* -1.5"),
        (lambda: MbPA(beta=INF), "beta.* inf"),
        (lambda: MbPA(block=0), "block.* 0"),
        (lambda: CacheGrid([0.3, -1.5], [10]), "theta.* -1.5"),
        (lambda: CacheGrid([0.3, NAN], [10]), "theta.* nan"),
        (lambda: CacheGrid([0.3], [10, 0]), "size.* 0"),
        (lambda: CacheGrid([0.3], [10], block=0), "block.* 0"),
        (lambda: MbPAGrid(0, [5], [0.3]), "size.* 0"),
        (lambda: MbPAGrid(10, [5, 0], [0.3]), "k.* 0"),
        (lambda: MbPAGrid(10, [5], [0.3, INF]), "lr.* inf"),
        (lambda: MbPAGrid(10, [5], [0.3, -1.5]), "lr.* -1.5"),
        (lambda: MbPAGrid(10, [5], [0.3], beta=NAN), "beta.* nan"),
        (lambda: MbPAGrid(10, [5], [0.3], steps=0), "steps.* 0"),
        (lambda: MbPAGrid(10, [5], [0.3], block=0), "block.* 0"),
    ],
)
def test_settings_that_mean_nothing(make, said):
    with pytest.raises(InputError, match=said):
        make()


D, V, HELD = 4, 6, 10  # what the memories hold before the mistake: 2 streams of HELD pairs


def with_value(value):
    hidden = torch.randn(2, 3, D).double()
    hidden[1, 2, 0] = value  # the very last token, which no other would see
    return hidden


def labels(*shape, value=0):
    target = torch.zeros(shape, dtype=torch.int64)
    if target.numel():
        target.view(-1)[-1] = value
    return target


def double(*shape):
    return torch.randn(*shape).double()


MISTAKES = {  # activations, labels, what the message says
    "nan": (with_value(NAN), labels(2, 3), "(?i)nan|finite"),
    "inf": (with_value(INF), labels(2, 3), "(?i)inf|finite"),
    "minus inf": (with_value(-INF), labels(2, 3), "(?i)inf|finite"),
    "label below 0": (double(2, 3, D), labels(2, 3, value=-1), "-1"),
    "label far below 0": (double(2, 3, D), labels(2, 3, value=-101), "-101"),
    "lengths": (double(2, 3, D), labels(2, 5), r"2, 3, 4.*2, 5"),
    "streams of the labels": (double(2, 3, D), labels(3, 3), r"2, 3, 4.*3, 3"),
    "labels of one stream": (double(2, 3, D), labels(3), r"2, 3, 4.*3"),
    "labels with a dimension more": (double(2, 3, D), labels(2, 3, 1), r"2, 3, 4.*2, 3, 1"),
    "a single activation": (double(D), labels(), "4"),
    "four dimensions": (double(2, 2, 3, D), labels(2, 2, 3), "2, 2, 3, 4"),
    "whole numbers": (torch.ones(2, 3, D, dtype=torch.int64), labels(2, 3), "int64"),
    "labels that are not whole": (double(2, 3, D), torch.zeros(2, 3), "float32"),
    "another width": (double(2, 3, 5), labels(2, 3), r"5.*4|4.*5"),
    "other streams": (double(3, 3, D), labels(3, 3), r"3.*2|2.*3"),
    "one stream": (double(3, D), labels(3), r"1.*2|2.*1|3, 4"),
    "another dtype": (torch.randn(2, 3, D), labels(2, 3), "float32.*float64|float64.*float32"),
}
MISTAKES_AT_THE_HEAD = {"label V": (double(2, 3, D), labels(2, 3, value=V), "6")}

head = make_head(0, V, D)


class Mixture:
    """``score_stream`` with both memories, in the shape of one."""

    def __init__(self, size):
        self.memories = {"cache": NeuralCache(size), "mbpa": MbPA(size, 3)}

    def nll(self, hidden, target):
        return score_stream(head, hidden, target, **self.memories)

    def __len__(self):
        (length,) = {len(memory) for memory in self.memories.values()}
        return length


class Adapted:
    """An MbPA that is given the head."""

    def __init__(self, memory):
        self.memory = memory

    def nll(self, *pairs):
        return self.memory.nll(head, *pairs)

    def remember(self, *pairs):
        self.memory.remember(head, *pairs)

    def __len__(self):
        return len(self.memory)


MEMORIES = {
    "cache": lambda: NeuralCache(15),
    "cache grid": lambda: CacheGrid([0.3], [5, 15]),
    "mbpa": lambda: Adapted(MbPA(15, 3)),
    "mbpa, 2 steps": lambda: Adapted(MbPA(15, 3, steps=2)),
    "mbpa grid": lambda: Adapted(MbPAGrid(15, [2, 3], [0.3])),
    "both": lambda: Mixture(15),
}
CASES = [(memory, mistake) for memory in MEMORIES for mistake in MISTAKES]
CASES += [(memory, mistake) for memory in ("mbpa", "mbpa grid", "both") for mistake in MISTAKES_AT_THE_HEAD]


@pytest.mark.parametrize(("memory", "mistake"), CASES)
def test_mistake_is_named_and_not_remembered(memory, mistake):
    hidden, target = make_stream(1, (2, HELD + 9), V, D)
    tried, fresh = MEMORIES[memory](), MEMORIES[memory]()
    for each in (tried, fresh):
        each.nll(hidden[:, :HELD], target[:, :HELD])
    bad_hidden, bad_target, said = (MISTAKES | MISTAKES_AT_THE_HEAD)[mistake]
    with pytest.raises(InputError, match=said):
        tried.nll(bad_hidden, bad_target)
    if hasattr(tried, "remember"):
        with pytest.raises(InputError, match=said):
            tried.remember(bad_hidden, bad_target)
    assert len(tried) == HELD
    rest = hidden[:, HELD:], target[:, HELD:]
    assert torch.equal(tried.nll(*rest), fresh.nll(*rest))


@pytest.mark.parametrize("memory", MEMORIES)
@pytest.mark.parametrize("mistake", ["nan", "label below 0", "lengths", "whole numbers"])
def test_a_mistake_at_the_start_leaves_a_fresh_memory(memory, mistake):
    hidden, target = make_stream(1, (3, 9), V, D)
    tried = MEMORIES[memory]()
    with pytest.raises(InputError):
        tried.nll(*MISTAKES[mistake][:2])
    assert len(tried) == 0
    assert torch.equal(tried.nll(hidden, target), MEMORIES[memory]().nll(hidden, target))


@pytest.mark.parametrize("made", [NeuralCache, lambda: Adapted(MbPA())])
def test_ignored_activations_must_be_numbers_too(made):
    """An activation that is not a number is a fault of the model, wherever it is."""
    with pytest.raises(InputError, match=r"(?i)nan|finite"):
        made().nll(torch.full((1, D), NAN).double(), torch.tensor([-100]))


def test_head_of_another_width():
    hidden, target = make_stream(2, (5,), V, 3)
    for call in (lambda: MbPA().nll(head, hidden, target), lambda: score_stream(head, hidden, target)):
        with pytest.raises(InputError, match=r"3.*4|4.*3"):
            call()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ({"cache_weight": -0.1}, r"cache_weight.*-0\.1"),
        ({"cache_weight": 1.1}, r"cache_weight.*1\.1"),
        ({"cache_weight": NAN}, "cache_weight.*nan"),
        ({"mbpa_weight": -0.1}, r"mbpa_weight.*-0\.1"),
        ({"mbpa_weight": 1.1}, r"mbpa_weight.*1\.1"),
        ({"mbpa_weight": INF}, "mbpa_weight.*inf"),
        ({"cache_weight": 0.7, "mbpa_weight": 0.4}, r"0\.7.*0\.4|1\.1"),
        ({"cache_weight": 1.0}, r"0\.04"),  # the default weight of the other comes on top
    ],
)
def test_weights(weights, said):
    hidden, target = make_stream(3, (5,), V, D)
    cache, mbpa = NeuralCache(), MbPA()
    with pytest.raises(InputError, match=said):
        score_stream(head, hidden, target, cache=cache, mbpa=mbpa, **weights)
    assert len(cache) == len(mbpa) == 0


def test_weights_at_their_bounds():
    hidden, target = make_stream(3, (5,), V, D)
    for weights in ({"cache_weight": 1.0, "mbpa_weight": 0.0}, {"cache_weight": 0.9, "mbpa_weight": 0.1}):
        score_stream(head, hidden, target, cache=NeuralCache(), mbpa=MbPA(), **weights)
    score_stream(head, hidden, target, cache=NeuralCache(), cache_weight=1.0)


def test_weight_of_a_memory_that_is_not_there():
    hidden, target = make_stream(3, (5,), V, D)
    mbpa = MbPA()
    with pytest.raises(InputError, match=r"cache_weight.*cache"):
        score_stream(head, hidden, target, cache_weight=0.1, mbpa=mbpa)
    assert len(mbpa) == 0
    with pytest.raises(InputError, match=r"mbpa_weight.*mbpa"):
        score_stream(head, hidden, target, mbpa_weight=0.1)


def test_mix_checks_its_weights():
    nll = torch.ones(3)
    for parts in ([(nll, -0.1)], [(nll, 1.1)], [(nll, NAN)], [(nll, 0.7), (nll, 0.4)]):
        with pytest.raises(InputError):
            mix(nll, parts)


@pytest.mark.parametrize("odd", ["cache", "mbpa"])
@pytest.mark.parametrize("what", ["width", "streams", "dtype"])
def test_neither_memory_moves_where_one_refuses(odd, what):
    """The stream fits the head and one memory, but not the other."""
    hidden, target = make_stream(4, (2, 12), V, D)
    memories = {"cache": NeuralCache(20), "mbpa": MbPA(20, 3)}
    other = {"width": double(2, 3, 5), "streams": double(3, 3, D), "dtype": torch.randn(2, 3, D)}[what]
    pairs = other, labels(*other.shape[:2])
    if odd == "mbpa":
        pairs = make_head(0, V, other.shape[-1], dtype=other.dtype), *pairs
    memories[odd].remember(*pairs)
    kept = copy.deepcopy(memories[odd])
    with pytest.raises(InputError):
        score_stream(head, hidden, target, **memories)
    assert {name: len(memory) for name, memory in memories.items()} == {"cache": 0, "mbpa": 0} | {odd: 3}
    assert torch.equal(memories[odd].nll(*pairs), kept.nll(*pairs))
