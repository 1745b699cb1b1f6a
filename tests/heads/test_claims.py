"""What new classes may take from trained ones: the price of one, the cap on all."""

import copy

import pytest
import torch
from trained_head import NEW, D, V, draw, trained

from firstsight import HebbianSoftmax, InputError

HEAD = trained()
Y = torch.arange(V, V + NEW)


def met(one_by_one=False, head=HEAD, **options):
    head = copy.deepcopy(head)
    for name, value in options.items():
        setattr(head, name, value)
    x = draw(range(V, V + NEW), 1, seed=5)[:, 0]
    if not one_by_one:
        head.add_classes(NEW)
        head.write(x, Y)
    for i in range(NEW if one_by_one else 0):
        head.add_classes(1)
        head.write(x[i : i + 1], Y[i : i + 1])
    return head


def taken(head):
    """How many examples of trained classes the new ones take."""
    return float((head(draw(range(V), 40, seed=7)).argmax(2) >= V).double().mean())


def test_a_higher_price_makes_a_class_claim_less():
    biases = [met(price=price).bias[V:].detach() for price in (0.25, 1.0, 4.0)]
    assert (biases[0] >= biases[1]).all()
    assert (biases[1] >= biases[2]).all()
    assert (biases[0] > biases[2]).all()


@pytest.mark.parametrize("bias", [True, False])
def test_a_cap_holds_for_all_new_classes_together_however_they_come(bias):
    head = HEAD if bias else trained(bias=False)
    free, capped = met(head=head), met(head=head, cap=0.002)
    assert taken(capped) <= taken(free)
    assert taken(capped) < 0.01
    later = met(head=head, cap=0.002, one_by_one=True)
    torch.testing.assert_close(later.weight, capped.weight, rtol=1e-4, atol=1e-4)
    if bias:
        torch.testing.assert_close(later.bias, capped.bias, rtol=1e-4, atol=1e-3)
        assert (capped.bias[V:] <= free.bias[V:]).all()
        assert (capped.bias[V:] < free.bias[V:]).any()
    assert torch.equal(later.weight[:V], head.weight)


@pytest.mark.parametrize("options", [{"price": 0}, {"price": -1}, {"cap": 0}, {"cap": 1.5}])
def test_claims_that_mean_nothing_are_refused(options):
    with pytest.raises(InputError, match=f"{next(iter(options))} is "):
        HebbianSoftmax(D, V, **options)


def test_no_class_gets_more_than_its_share_of_the_probability():
    """A layer that is hardly ever right, as a language model, has little to lose by equation (2) alone."""
    head = copy.deepcopy(trained(spread=4.0))
    head.add_classes(NEW)
    head.write(draw(range(V, V + NEW), 1, seed=5, spread=4.0)[:, 0], Y)
    claimed = head.log_prob(draw(range(V), 40, seed=7, spread=4.0).flatten(0, 1)).exp()[:, V:].mean(0)
    assert (claimed < 1.5 / V).all()
