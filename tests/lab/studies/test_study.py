"""The recipe of a study, its jobs, and the arithmetic of its table. That it runs is tested in tests/cli."""

import math
from pathlib import Path

import matplotlib.image
import pytest
import yaml
from study_runs import make_study, plain_differences
from training_runs import make_corpus

from firstsight.errors import InputError
from firstsight.lab.lm.config import save_config
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.report.study import COLUMNS, OVERALL, RARE, format_difference, groups, markdown
from firstsight.lab.report.study_figure import draw_study
from firstsight.lab.runs.jobs import seconds_left
from firstsight.lab.runs.metrics import append_metrics
from firstsight.lab.studies.recipe import load_study
from firstsight.lab.studies.study import check_jobs, list_study, make_jobs, record
from firstsight.lab.system.files import write_json

ROOT = Path(__file__).parents[3]
RECIPE = {
    "data": {"one": "data/one", "two": "data/two"},
    "base": {"recipe": "demo", "embedding": 8, "lr": 0.01},
    "regimes": {"default": {}, "wide": {"embedding": 16, "lr": 0.02}},
    "variants": {
        "plain": {"head": "softmax", "bias": True},
        "other": {"head": "hebbian", "bias": False, "bias_start": "zero", "lr": 0.03},
    },
    "baseline": "plain",
    "seeds": [3, 1],
}


def write_recipe(folder, **changes):
    values = {**RECIPE, **changes}
    path = folder / "recipe.yaml"
    path.write_text(
        yaml.safe_dump({name: value for name, value in values.items() if value != "missing"}, sort_keys=False)
    )
    return path


def test_the_jobs_of_a_recipe(tmp_path):
    jobs = make_jobs(load_study(write_recipe(tmp_path)), tmp_path / "out")
    expected = [
        (seed, data, regime, variant)
        for seed in (3, 1)
        for data in ("one", "two")
        for regime in ("default", "wide")
        for variant in ("plain", "other")
    ]
    assert [(job.seed, job.data, job.regime, job.variant) for job in jobs] == expected
    assert jobs[0].folder == tmp_path / "out/runs/one/default/plain/3"
    assert len({job.folder for job in jobs}) == 16
    by_name = {(job.regime, job.variant): job.config for job in jobs if job.seed == 1}
    assert by_name["default", "plain"].to_dict() == {
        **recipe("demo").to_dict(),
        **{"embedding": 8, "lr": 0.01, "head": "softmax", "bias": True, "seed": 1},
    }
    # Variants go over regimes, and regimes over the base.
    assert [by_name[key].lr for key in by_name] == [0.01, 0.03, 0.02, 0.03]
    assert [by_name[key].embedding for key in by_name] == [8, 8, 16, 16]
    assert {job.split for job in jobs} == {"valid"}


def test_what_may_be_left_out(tmp_path):
    study = load_study(write_recipe(tmp_path, base="missing", regimes="missing", variants={"plain": None}))
    assert study.settings == {("default", "plain"): recipe("small")}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"datas": {}}, "unknown datas"),
        ({"data": "missing"}, "data is None"),
        ({"data": {"one": 3}}, "data one is 3"),
        ({"data": {"../one": "d"}}, "'../one', which is to name a folder"),
        ({"variants": {}}, "variants is {}"),
        (
            {"variants": {"plain": {}, "other": {"hed": "softmax"}}},
            "variant other, regime default: .*unknown setting hed",
        ),
        ({"variants": {"plain": {"T": 0}}}, "variant plain, regime default: T is 0"),
        ({"variants": {"plain": {"projection": False}}}, "variant plain, regime default: .*tied"),
        ({"variants": {"plain": [1]}}, "variants plain is"),
        ({"variants": {"plain": {}, True: {}}}, "in quotes if YAML"),
        ({"regimes": {"default": {"lr": "1e-3"}}}, "regime default: lr is '1e-3'; expected a number"),
        ({"base": {"recipe": "huge"}}, "recipe is 'huge'"),
        ({"base": {"seed": 4}}, "base sets seed"),
        ({"baseline": "softmax"}, "baseline is 'softmax'; expected one of the variants, plain, other"),
        ({"baseline": "missing"}, "baseline is None"),
        ({"baseline": ["plain"]}, r"baseline is \['plain'\]"),
        ({"seeds": []}, r"seeds is \[\]"),
        ({"seeds": [1, 1]}, r"seeds is \[1, 1\]"),
        ({"seeds": 3}, "seeds is 3"),
        ({"seeds": [True]}, "seeds is"),
        ({"split": "dev"}, "split is 'dev'"),
    ],
)
def test_a_bad_recipe_is_refused(changes, said, tmp_path):
    with pytest.raises(InputError, match=said):
        load_study(write_recipe(tmp_path, **changes))


def test_the_committed_recipes_make_runs():
    """One of them was refused when it was first run."""
    recipes = [path for path in sorted((ROOT / "benchmarks/study").glob("*.yaml")) if "trials:" not in path.read_text()]
    assert len(recipes) >= 8
    for path in recipes:
        assert load_study(path).settings, path


def test_a_recipe_that_is_none(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_study(tmp_path / "recipe.yaml")
    for text, said in (
        ("[1, 2]", "expected data, base"),
        ("a: [", "YAML in UTF-8 but is damaged"),
        ("a: 1\na: 2", "a given twice"),
    ):
        (tmp_path / "recipe.yaml").write_text(text)
        with pytest.raises(InputError, match=said):
            load_study(tmp_path / "recipe.yaml")


@pytest.fixture
def jobs(tmp_path):
    """Of a corpus that is there, the jobs of two variants and one seed."""
    corpus = make_corpus(tmp_path / "data", ["do re mi"] * 20)
    path = write_recipe(tmp_path, data={"song": str(corpus.folder)}, regimes={"default": {}}, seeds=[0])
    return make_jobs(load_study(path), tmp_path / "out")


def finish(job, perplexity=50.0, vocabulary_hash="", **changes):
    save_config(job.folder / "config.yaml", job.source, job.config.replace(**changes))
    bands = [{"name": "<100", "tokens": 2, "perplexity": 2 * perplexity if perplexity else None}]
    result = {"split": "valid", "perplexity": perplexity, "bands": bands, "git_commit": "abc"}
    write_json(job.folder / "result.json", {**result, "vocabulary_hash": vocabulary_hash})


def test_data_that_is_missing_is_refused(tmp_path):
    jobs = make_jobs(load_study(write_recipe(tmp_path)), tmp_path)
    with pytest.raises(InputError, match=r"data/(one|two): there is no such folder"):
        check_jobs(jobs)


@pytest.mark.parametrize("changes", [{"lr": 0.5}, {"steps": 901}])
def test_a_run_with_other_settings_is_refused(changes, jobs):
    finish(jobs[1], **changes)
    name, value = next(iter(changes.items()))
    with pytest.raises(InputError, match=f"other/0 .*: {name} was {value}, now {getattr(jobs[1].config, name)}"):
        check_jobs(jobs)


def test_a_run_on_other_data_is_refused(jobs, tmp_path):
    save_config(jobs[0].folder / "config.yaml", str(tmp_path / "elsewhere"), jobs[0].config)
    with pytest.raises(InputError, match=r"data was .*elsewhere, now"):
        check_jobs(jobs)
    finish(jobs[0], vocabulary_hash="another")
    with pytest.raises(InputError, match="another vocabulary"):
        check_jobs(jobs)


def test_how_often_a_checkpoint_is_saved_may_change(jobs):
    save_config(jobs[0].folder / "config.yaml", jobs[0].source, jobs[0].config.replace(checkpoint_every=7))
    check_jobs(jobs)


def test_what_is_finished(jobs):
    one, other = jobs
    assert [job.ended() for job in jobs] == [None, None]
    assert record(one)["state"] == "waiting"
    finish(one)
    assert one.ended().whole
    assert record(one)["state"] == "done"
    write_json(one.folder / "result.json", {"split": "test", "perplexity": 3.0, "bands": []})
    assert one.ended() is None
    write_json(other.folder / "outcome.json", {"reason": "diverged", "message": "the loss is nan"})
    assert not other.ended().whole
    assert (record(other)["state"], record(other)["diverged"]) == ("diverged", True)
    finish(one, perplexity=None)  # an overflow
    assert record(one)["state"] == "diverged"


def test_the_sights_of_a_training(jobs):
    lines = [[(1, 3, 2.0), (2, 1, 5.0)], [(1, 1, 6.0), (4, 2, 1.5)]]
    finish(jobs[0])
    known = {"train_loss": 1.0, "valid_loss": 1.0, "seconds": 2.5}
    for step, line in enumerate(lines, start=1):
        sights = [{"seen": k, "tokens": n, "nll": x} for k, n, x in line]
        append_metrics(jobs[0].folder / "metrics.jsonl", {"step": step, "tokens": 70 * step, **known, "sights": sights})
    found = record(jobs[0])
    means = {one["seen"]: (one["tokens"], one["nll"]) for one in found["sights"]}
    assert means == {1: (4, pytest.approx((3 * 2.0 + 6.0) / 4)), 2: (1, 5.0), 4: (2, 1.5)}
    assert (found["tokens"], found["seconds"]) == (140, 2.5)


def test_listing(jobs, tmp_path):
    found = list_study(tmp_path / "recipe.yaml", tmp_path / "out")
    assert (found["jobs"], found["waiting"]) == (2, 2)
    assert [group["settings"] for group in found["groups"]] == [
        {"head": "softmax", "bias": True, "bias_start": "unigram", "lr": 0.01},
        {"head": "hebbian", "bias": False, "bias_start": "zero", "lr": 0.03},
    ]
    assert not (tmp_path / "out").exists()


def test_a_sight_of_other_targets_is_not_paired():
    study = make_study(lacking=())
    group = groups(study)[0]
    sight = COLUMNS[2]
    assert len(group.differences("other", sight)) == 5
    changed = next(job for job in study["jobs"] if job["variant"] == "other")
    next(one for one in changed["sights"] if one["seen"] == 1)["tokens"] += 1
    assert len(groups(study)[0].differences("other", sight)) == 4


@pytest.mark.parametrize(
    ("measure", "value"),
    [
        (OVERALL, lambda job: job["perplexity"]),
        (RARE, lambda job: job["bands"][1]["perplexity"]),
        (COLUMNS[3], lambda job: job["sights"][2]["nll"]),
    ],
)
def test_differences_are_paired_by_seed(measure, value):
    study = make_study()
    group = groups(study)[0]
    pairs, mean, deviation = plain_differences(study, "other", value, measure.percent)
    found = group.differences("other", measure)
    assert (len(found), pairs) == (3, 3)  # of seeds 1 and 4 one of the two is missing
    sign, places, unit = "−" if mean < 0 else "+", 2 if measure.percent else 3, "%" if measure.percent else ""
    expected = f"{sign}{abs(mean):.{places}f}{unit} ± {deviation:.{places}f}"
    assert format_difference(found, measure.percent) == expected
    row = next(line for line in markdown(study).splitlines() if line.startswith("| other"))
    cell = row.strip("| ").split(" | ")[1 + COLUMNS.index(measure)]
    own = [value(job) for job in study["jobs"] if job["variant"] == "other" and job["state"] == "done"]
    middle = sum(own) / 4
    around = math.sqrt(sum((x - middle) ** 2 for x in own) / 3)
    places = 1 if measure.percent else 3
    assert cell.strip() == f"{middle:,.{places}f} ± {around:,.{places}f} ({expected})"


def test_the_table_says_what_is_missing():
    lines = markdown(make_study()).splitlines()
    assert lines[0] == "### song, default: 5 seeds, 99 tokens each"
    cells = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:7] if line.startswith("|")]
    assert [len(row) for row in cells] == [7] * 5
    assert [row[0] for row in cells[2:]] == [
        "plain (4 of 5 seeds)",
        "other (4 of 5 seeds)",
        "bad (0 of 5 seeds, 5 diverged)",
    ]
    assert "(" not in cells[2][1]  # the baseline has no difference to itself
    assert [row[6] for row in cells[2:]] == ["–"] * 3  # no job got to the 8th sight
    assert cells[4][1:3] == ["diverged", "diverged"]


def test_one_seed_has_no_spread():
    text = markdown(make_study(seeds=(7,), lacking=(), diverged=()))
    assert "1 seed," in text
    assert "±" not in text.split("Perplexity of")[0]


def test_unequal_tokens_are_told():
    study = make_study()
    study["jobs"][0]["tokens"] = 98
    assert "UNEQUAL tokens: 98 to 99" in markdown(study)


@pytest.mark.parametrize("far", [False, True])
def test_files(far, tmp_path):
    study = make_study(diverged=())
    if far:
        for job in study["jobs"]:
            job["perplexity"] = job["perplexity"] and job["perplexity"] * (100 if job["variant"] == "bad" else 1)
    draw_study(tmp_path, study)
    image = matplotlib.image.imread(tmp_path / "study.png")
    assert image.shape[1] > image.shape[0]
    assert len({tuple(color) for color in image.reshape(-1, image.shape[2])[::7].round(2).tolist()}) > 10
    assert {path.name for path in tmp_path.iterdir()} == {"table.md", "study.png"}


def test_before_there_is_a_difference_there_is_no_figure(tmp_path):
    draw_study(tmp_path, make_study(seeds=(1,), lacking=(("other", 1),)))
    assert {path.name for path in tmp_path.iterdir()} == {"table.md"}


def test_time_left():
    assert seconds_left(1000, [], [3.0], 2) == 0  # nobody knows
    # 500 tokens took 50 s of a core: 1000 take 100, of which 30 have passed, on two cores.
    assert seconds_left(1000, [(200, 30.0), (300, 20.0)], [10.0, 20.0], 2) == pytest.approx(35)
