"""States whose values are not such as a head keeps: torch's loader is told why, and the head stays as it was."""

import pytest
import torch

from firstsight import HebbianSoftmax
from firstsight.heads import HebbianAdaptiveSoftmax

HEADS = {
    "sight": lambda: HebbianSoftmax(4, 6),
    "shrinkage": lambda: HebbianSoftmax(4, 6, rule="shrinkage"),
    "recorded": lambda: HebbianSoftmax(4, 6, rule="paper", bias=False, record=True),
    "clusters": lambda: HebbianAdaptiveSoftmax(8, 30, [10, 20], rule="centered"),
}
VALUES = {
    "text": lambda value: "x",
    "a number": lambda value: 3,
    "complex": lambda value: value.to(torch.complex64),
    "sparse": lambda value: torch.ones_like(value).to_sparse(),
    "meta": lambda value: value.to("meta"),
    "scalar": lambda value: torch.tensor(float("inf")),
    "empty": lambda value: torch.zeros(0),
    "more axes": lambda value: value[None],
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("make", HEADS.values(), ids=HEADS)
def test_a_value_of_another_kind_is_refused_by_name(make, value):
    torch.manual_seed(0)
    saved = make().state_dict()
    for name in (name for name in saved if not name.endswith(("bias", "frequent", "projection"))):  # torch's own
        head = make()
        before = {key: kept.clone() for key, kept in head.state_dict().items()}
        with pytest.raises(RuntimeError, match=r"Error\(s\) in loading"):
            head.load_state_dict({**saved, name: value(saved[name])})
        kept = head.state_dict()
        assert kept.keys() == before.keys()
        assert head.loss(torch.ones(3, head.in_features), torch.tensor([0, 1, 2])).isfinite()


@pytest.mark.parametrize("frequent", ["x", torch.tensor(float("inf")), torch.ones(3), torch.tensor(1j), None])
def test_the_size_of_a_cluster_is_a_number(frequent):
    head = HEADS["clusters"]()
    saved = {name: value for name, value in head.state_dict().items() if name != "frequent"}
    with pytest.raises(RuntimeError, match=r"Error\(s\) in loading"):
        HEADS["clusters"]().load_state_dict(saved if frequent is None else {**saved, "frequent": frequent})
