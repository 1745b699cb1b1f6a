"""Settings of any kind and size: kept as given, or refused by an error that names the setting and stays short."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.classify.settings import Trial
from firstsight.lab.curriculum.settings import Curriculum
from firstsight.lab.lm.config import Config
from firstsight.lab.system.machine import check_fits, check_processes, memory_bytes
from firstsight.lab.system.settings import Settings, check_seeds

ANY = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.just(10**22), st.just(-(10**400)),
    st.just(10**5000), st.just("9" * 5000), st.just("x" * 10**5), st.lists(st.integers()),
    st.just({"a": 1}), st.just([0] * 10**5),
)  # fmt: skip


@dataclass(frozen=True)
class Some(Settings):
    whole: int = 1
    number: float = 1.0
    name: str = ""


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"whole": 10**22}, "whole is a whole number of 74 bits; expected a whole number below 2^63"),
        ({"whole": -(2**63)}, "whole is -9223372036854775808; expected a whole number below 2^63"),
        ({"whole": 10**5000}, "whole is a whole number of 16,610 bits; expected a whole number below 2^63"),
        ({"number": 10**400}, "number is a whole number of 1,329 bits; expected a finite number"),
        ({"number": float("nan")}, "number is nan; expected a finite number"),
        ({"name": 3}, "name is 3; expected text"),
        ({"name": "a\0"}, "name is 'a\\x00'; expected text"),
    ],
)
def test_what_no_tensor_or_file_can_hold_is_refused(value, said):
    with pytest.raises(InputError) as found:
        Some(**value)
    assert str(found.value) == f"{said}."


def test_what_comes_from_a_file_is_refused_with_its_name():
    for given_, said in (
        ({"whole": "x"}, "whole is 'x'"),
        ([], r"the settings are \[\]"),
        ({3: 1}, "unknown setting 3"),
    ):
        with pytest.raises(InputError, match=rf"^run/config\.yaml: {said}"):
            Some.from_dict(given_, "run/config.yaml")
    assert Some.from_dict({"whole": 2}, "run/config.yaml") == Some(2)


@given(st.sampled_from([Config, Curriculum, Trial]), st.data())
def test_any_value_of_any_setting_is_kept_or_refused(kind, data):
    name = data.draw(st.sampled_from(sorted(kind().to_dict())))
    try:
        kept = kind.from_dict({name: data.draw(ANY)}, "a.yaml")
    except InputError as error:
        assert str(error).startswith("a.yaml") and len(str(error)) < 700  # noqa: PT017, PT018
    else:
        assert kind.from_dict(kept.to_dict()) == kept


def test_sizes_are_held_against_the_machine():
    check_fits(1000, "a model")
    with pytest.raises(
        InputError, match=rf"^a model: that takes about .* bytes, and this machine has {memory_bytes():,}"
    ):
        check_fits(memory_bytes() + 1, "a model")
    with pytest.raises(InputError, match=r"^a model: that takes more than 2\^63 bytes"):
        check_fits(None, "a model")
    check_processes(None, "runs")
    check_processes(2, "runs")
    for workers, said in ((0, "expected 1 or more runs"), (10**22, r"this machine has")):
        with pytest.raises(InputError, match=f"^workers is {workers}.*{said}"):
            check_processes(workers, "runs")
    check_seeds(10)
    for seeds in (0, 10**22):
        with pytest.raises(InputError, match=r"^seeds is .*expected 1 or more, and 10,000 at most"):
            check_seeds(seeds)
