import math

import pytest
from report_runs import HEBBIAN, SOFTMAX, make_result, text_of

from firstsight.errors import InputError
from firstsight.lab.report import comparison_table, markdown_table
from firstsight.lab.report.plots import compact
from firstsight.lab.report.tables import format_perplexity, format_relative, verdict
from firstsight.lab.system.progress import duration


@pytest.fixture
def results():
    return {"softmax": make_result(SOFTMAX, "softmax"), "hebbian": make_result(HEBBIAN, "hebbian")}


def test_verdict_when_hebbian_wins(results):
    sentence = verdict(results)
    assert sentence.startswith("hebbian has the lowest test perplexity, 257.9, 9.8% lower than softmax (286.0); it is ")
    assert "23.9% lower on words seen fewer than 100 times in training" in sentence
    assert "22.8% lower on words never seen in training" in sentence


def test_verdict_says_plainly_when_hebbian_loses():
    worse = {name: 1.05 * value for name, value in SOFTMAX.items()} | {"unseen": 0.5 * SOFTMAX["unseen"]}
    results = {"a softmax": make_result(SOFTMAX, "softmax"), "b": make_result(worse, "hebbian")}
    for order in (results, dict(reversed(results.items()))):
        sentence = verdict(order)
        assert sentence.startswith("The Hebbian softmax loses: b reaches a test perplexity of ")
        assert "1.3% higher than a softmax (286.0)" in sentence
        assert "5.0% higher on words seen fewer than 100 times" in sentence
        assert "50.0% lower on words never seen" in sentence


def test_verdict_tells_what_the_frequent_words_lose(results):
    worse = HEBBIAN | {"100-1K": 1.173 * SOFTMAX["100-1K"]}
    sentence = verdict({"softmax": results["softmax"], "hebbian": make_result(worse, "hebbian")})
    assert "17.3% higher on words seen 100-1K times and 23.9% lower on words seen fewer than 100 times" in sentence


def test_verdict_of_equals_names_no_winner():
    results = {"softmax": make_result(SOFTMAX, "softmax"), "hebbian": make_result(SOFTMAX, "hebbian")}
    assert "are level at a test perplexity of 286.0" in verdict(results)


def test_verdict_passes_over_a_run_whose_loss_was_not_finite():
    results = {"softmax": make_result(SOFTMAX, "softmax"), "hebbian": make_result(HEBBIAN, "hebbian", perplexity=None)}
    assert verdict(results).startswith("softmax reaches a test perplexity of 286.0 (the only finite one of 2 runs)")


def test_best_is_bold_and_differences_refer_to_the_softmax(results):
    text = text_of(comparison_table(dict(reversed(results.items()))))
    assert "to softmax" in text
    assert "−9.8%" in text
    lines = markdown_table(results).splitlines()
    assert lines[0] == "| run | perplexity | >10K | 1K-10K | 100-1K | \\<100 | unseen |"
    assert lines[2] == "| softmax | 286.0 | **9.5** | 88.4 | 402.7 | 6,120.3 | 141,804 |"
    assert lines[3] == "| hebbian | **257.9** | 9.6 | **86.9** | **371.2** | **4,655.8** | **109,412** |"
    assert "commit 1f0c2ab4d5e6" in lines[5]
    assert "Platinum 8481C CPU @ 2.70GHz, 2 cores" in lines[5]


def test_markdown_names_each_commit():
    results = {
        "softmax": make_result(SOFTMAX, "softmax"),
        "hebbian": make_result(HEBBIAN, "hebbian", git_commit=None),
    }
    below = markdown_table(results).splitlines()[-1]
    assert "softmax: commit 1f0c2ab4d5e6" in below
    assert "hebbian: commit unknown" in below


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"perplexity": "low"}, "perplexity is 'low'"),
        ({"bands": [{"name": ">10K"}]}, r"bands\[0\].tokens is missing"),
        ({"tokens": None}, "tokens is None"),
        ({"config": []}, "config is"),
    ],
)
def test_damaged_results_are_named(change, named):
    with pytest.raises(InputError, match=f"The result of a: {named}.*firstsight eval"):
        markdown_table({"a": make_result(HEBBIAN, "hebbian", **change)})


def test_how_numbers_are_written():
    values = [None, math.nan, math.inf, 1.0, 9_999.94, 9_999.96, 1_234_567.8]
    assert [format_perplexity(value) for value in values] == ["–", "–", "∞", "1.0", "9,999.9", "10,000", "1,234,568"]
    assert [format_relative(value) for value in (-4.06, 2.6, 0.04, -0.04, math.nan)] == [
        "−4.1%", "+2.6%", "0.0%", "0.0%", "–",
    ]  # fmt: skip
    assert [compact(value) for value in (0, 500, 20_000, 1.5e6, 4e9)] == ["0", "500", "20K", "1.5M", "4B"]
    assert [duration(value) for value in (0.4, 59.6, 200, 2_562, 3_590, 7_500, 273_600)] == [
        "0 s",
        "1 min 0 s",
        "3 min 20 s",
        "43 min",
        "1 h 0 min",
        "2 h 5 min",
        "3 d 4 h",
    ]


def test_verdict_says_which_number_of_a_memory_it_is(results):
    alone = verdict({"softmax": results["softmax"]})
    variants = [{"name": "model", "perplexity": 310.0}, {"name": "+ cache + MbPA", "perplexity": 286.0}]
    sentence = verdict({"softmax": results["softmax"] | {"memory": {"variants": variants}}})
    assert sentence.startswith(
        "softmax reaches a test perplexity of 286.0 with cache + MbPA at test time, 310.0 without"
    )
    assert "with" not in alone
