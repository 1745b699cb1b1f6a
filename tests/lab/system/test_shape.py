"""Of what kind the values of a file are, and how a message shows one of any size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.lab.system.shape import (
    COUNT,
    NUMBER_OR_NULL,
    OBJECT,
    TEXT,
    WHOLE,
    Named,
    check_plain,
    fault,
    or_null,
    shown,
)

SHAPE = {"name": TEXT, "rows": [{"n": WHOLE, "x?": NUMBER_OR_NULL}], "by": or_null(Named(COUNT)), "any": None}
SOUND = {"name": "a", "rows": [{"n": 1}, {"n": 2, "x": None, "more": 3}], "by": {"b": 0.5}, "any": [], "other": 1}


def test_a_sound_value_has_no_fault():
    assert fault(SOUND, SHAPE) is None
    assert fault({**SOUND, "by": None, "rows": []}, SHAPE) is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 3}, "name is 3; expected text"),
        ({"rows": {}}, "rows is {}; expected a list"),
        ({"rows": [1]}, "rows[0] is 1; expected values by name"),
        ({"rows": [{"n": 1}, {}]}, "rows[1].n is missing; expected a whole number from 0"),
        ({"rows": [{"n": True}]}, "rows[0].n is True; expected a whole number from 0"),
        ({"rows": [{"n": 2**63}]}, f"rows[0].n is {2**63}; expected a whole number from 0"),
        ({"rows": [{"n": 1, "x": "y"}]}, "rows[0].x is 'y'; expected a number"),
        ({"by": {"b": -1}}, "by is {'b': -1}; expected values by name or null"),
    ],
)
def test_the_first_fault_is_named(change, said):
    assert fault({**SOUND, **change}, SHAPE) == said


def test_the_whole_and_what_is_missing():
    assert fault([], SHAPE) == "the whole is []; expected values by name"
    assert fault({}, {"a": None}) == "a is missing; expected anything"
    assert fault({"a": {"b": 1}}, {"a": Named(OBJECT)}) == "a.b is 1; expected values by name"


@pytest.mark.parametrize(
    "value",
    [2**64, -(2**63) - 1, float("nan"), float("inf"), "\ud800", {"a": [{"\udfff": 1}]}, {"a": {"b": 10**5000}}],
    ids=range(7),
)
def test_values_that_no_file_of_ours_holds(value):
    with pytest.raises(ValueError):
        check_plain([1, value])


@given(st.integers(0, 60))
def test_values_nested_deep(depth):
    value = 1
    for _ in range(depth):
        value = [value]
    if depth < 32:
        check_plain(value)
    else:
        with pytest.raises(ValueError, match="nested"):
            check_plain(value)


LARGE = {
    "text": "x" * 10**6,
    "integer": 10**10_000,
    "negative": -(10**10_000),
    "lists": [[["y" * 10**4] * 10**4] * 10] * 10,
    "dict": {i: i for i in range(10**5)},
    "bytes": b"z" * 10**6,
}


@pytest.mark.parametrize("value", LARGE.values(), ids=LARGE)
def test_what_is_shown_is_short(value):
    assert len(shown(value)) <= 80


def test_what_is_short_is_shown_as_it_is():
    for value in ("a", 3, -2.5, None, True, [1, "b"], {"a": [2]}, 2**64 - 1):
        assert shown(value) == repr(value)
