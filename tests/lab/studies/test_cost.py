"""What many runs will cost, told in one line before the first starts."""

import re

import pytest

from firstsight.errors import InputError
from firstsight.lab.lm.config import Config
from firstsight.lab.studies import cost

TINY = Config(embedding=8, hidden=8, batch=4, length=10, steps=50)


@pytest.fixture
def said(monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(cost, "say", lines.append)
    return lines


def test_the_line_is_of_the_longest_worker(said):
    cost.say_seconds([60.0, 30.0, 30.0], 2)
    cost.say_seconds([100.0, 1.0], 16)  # no less than the longest
    cost.say_seconds([5.0], 4)
    cost.say_seconds([], 4)
    assert said == [
        "3 runs to do: about 1 min 0 s on this machine, 2 at a time",
        "2 runs to do: about 1 min 40 s on this machine, 2 at a time",
        "1 run to do: about 5 s on this machine, 1 at a time",
    ]


def test_each_setting_is_tried_once_and_what_is_behind_it_taken_off(said, monkeypatch):
    tried = []

    def run_seconds(corpus, config):
        tried.append((corpus, config))
        if config.lr == 9:
            raise InputError("this one diverges")
        return 100.0

    monkeypatch.setattr(cost, "run_seconds", run_seconds)
    monkeypatch.setattr(cost, "open_corpus", lambda source: source)
    slow, bad = TINY.replace(hidden=16), TINY.replace(lr=9)
    runs = [("a", TINY, 0), ("a", TINY.replace(seed=3), 25), ("b", TINY, 0), ("a", slow, 50), ("a", bad, 0)]
    cost.say_cost(runs, 1)
    assert tried == [("a", TINY), ("b", TINY), ("a", slow), ("a", bad)]
    assert said == ["5 runs to do: about 4 min 10 s on this machine, 1 at a time"]


def test_it_is_measured_with_the_steps_themselves(corpus, said):
    for steps in (50, 5_000_000):
        cost.say_cost([(str(corpus.folder), TINY.replace(steps=steps, eval_every=steps), 0)], 2)
    short, long = said
    assert re.fullmatch(r"1 run to do: about \d+ s on this machine, 1 at a time", short)
    assert re.search(r"about (\d+ d )?\d+ (h|min)", long)
