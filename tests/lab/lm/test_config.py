"""The settings: every bad value is named, and YAML gives back what was saved."""

import dataclasses
import typing
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.lm.config import Config, load_config, save_config
from firstsight.lab.lm.recipes import RECIPES, recipe

HINTS = typing.get_type_hints(Config)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *[(name, 0, "1 or more") for name in ("embedding", "hidden", "batch", "length", "steps", "eval_every", "T")],
        ("accumulate", 0, "1 or more"),
        ("T", -1, "1 or more"),
        *[(name, -1, "0 or more") for name in ("momentum", "weight_decay", "clip", "warmup", "minutes", "patience")],
        ("checkpoint_every", -1, "0 or more"),
        ("checkpoint_minutes", -0.1, "0 or more"),
        ("layers", 0, "1 or 2"),
        ("layers", 3, "1 or 2"),
        ("dropout", 1.0, r"in \[0, 1\)"),
        ("dropout", -0.1, r"in \[0, 1\)"),
        ("gamma", 1.01, r"in \[0, 1\]"),
        ("gamma", -0.01, r"in \[0, 1\]"),
        ("lr", 0.0, "above 0"),
        ("accumulate", 3, "a divisor of batch = 16"),
        ("seed", -1, r"from 0 to 2\^63 - 1"),
        ("seed", 2**63, r"a whole number below 2\^63"),
        ("head", "sotfmax", "one of softmax, hebbian"),
        ("optimizer", "adamw", "one of rmsprop, adam, adagrad, sgd"),
        ("precision", 16, "one of fp32, bf16"),
        ("decay", None, "one of none, linear, cosine"),
    ],
)
def test_a_value_out_of_range(name, value, expected):
    with pytest.raises(InputError, match=rf"^{name} is .*; expected {expected}\.$"):
        Config(**{name: value})


@pytest.mark.parametrize("name", [name for name in HINTS if HINTS[name] in (int, float, bool)])
def test_a_value_of_another_kind(name):
    for value in ("1", None, [1], True if HINTS[name] is not bool else 1):
        with pytest.raises(InputError, match=rf"^{name} is .*; expected (a whole number|a number|true or false)"):
            Config(**{name: value})
    if HINTS[name] is int:
        for value in (1.5, 2.0, float("inf"), float("nan")):
            with pytest.raises(InputError, match=f"^{name} is .*; expected a whole number"):
                Config(**{name: value})
    if HINTS[name] is float:
        for value in (float("inf"), float("nan")):
            with pytest.raises(InputError, match=f"^{name} is .*; expected a finite number"):
                Config(**{name: value})


def test_the_ends_of_the_ranges_are_allowed():
    for name, value in (("gamma", 0), ("gamma", 1), ("dropout", 0), ("T", 1), ("layers", 2), ("accumulate", 16)):
        assert getattr(Config(**{name: value}), name) == value


def test_replace_checks_too_and_a_config_cannot_be_changed():
    with pytest.raises(InputError, match="gamma"):
        Config().replace(gamma=2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().lr = 1  # type: ignore[misc]


positive = st.integers(1, 10**6)
amounts = st.floats(0, 1e6)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lr=st.floats(min_value=1e-300, max_value=1e300),
    gamma=st.floats(0, 1),
    weight_decay=amounts,
    minutes=amounts,
    hidden=positive,
    T=positive,
    seed=st.integers(0, 2**63 - 1),
    flags=st.tuples(st.booleans(), st.booleans()),
    words=st.tuples(st.sampled_from(["softmax", "hebbian"]), st.sampled_from(["none", "linear", "cosine"])),
    data=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1),
)
def test_yaml_gives_back_what_was_saved(tmp_path, data, flags, words, **numbers):
    config = Config(**numbers, layer_norm=flags[0], tied=flags[1], head=words[0], decay=words[1])
    save_config(tmp_path / "config.yaml", data, config)
    assert load_config(tmp_path / "config.yaml") == (data, config)


def test_yaml_is_for_people(tmp_path):
    save_config(tmp_path / "config.yaml", "data/mine", Config(lr=1e-5))
    lines = (tmp_path / "config.yaml").read_text().splitlines()
    assert lines[0] == "data: data/mine"
    assert [line.split(":")[0] for line in lines[1:]] == [field.name for field in dataclasses.fields(Config)]
    assert "lr: 1.0e-05" in lines


def test_settings_left_out_are_the_defaults(tmp_path):
    (tmp_path / "config.yaml").write_text("data: x\nlr: 0.5\n")
    assert load_config(tmp_path / "config.yaml") == ("x", Config(lr=0.5))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file. Is .* the folder of a run"),
        (b"", "expected settings by name, among them data: FOLDER"),
        (b"- 1\n- 2\n", "expected settings by name"),
        (b"lr: 0.1\n", "among them data: FOLDER"),
        (b"data: 3\n", "among them data: FOLDER"),
        (b"data: x\nhead: [softmax\n", "YAML in UTF-8 but is damaged"),
        (b"data: caf\xe9\n", "in UTF-8 but is damaged"),
        (b"data: !!python/object:os.system x\n", "YAML in UTF-8 but is damaged"),
        (b"data: x\nlearning_rate: 1\n3: 4\n", "unknown setting 3, learning_rate. Known: T, accumulate"),
        (b"data: x\nlr: 1e-3\n", "lr is '1e-3'; expected a number, like 0.001 or 1.0e-3"),
        (b"data: x\nhidden: 2.5\n", "hidden is 2.5; expected a whole number"),
    ],
)
def test_a_file_that_is_no_config(content, said, tmp_path: Path):
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=said) as found:
        load_config(path)
    assert "\n" not in str(found.value)


def test_recipes():
    for name in RECIPES:
        assert Config.from_dict(yaml.safe_load(yaml.safe_dump(recipe(name).to_dict()))) == recipe(name)
    with pytest.raises(InputError, match="recipe is 'big'; expected one of small, demo, paper"):
        recipe("big")
