"""The figures of a search."""

import optuna

from firstsight.lab.report.sweep.plots import search_plots


def test_ranges_over_powers_are_labelled_with_numbers():
    """Matplotlib's own labels of such axes are formulas, which our figures do not parse."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ranges = {"lr": (0.001, 0.02), "gamma": (0.002, 0.2)}

    def objective(trial):
        values = [trial.suggest_float(name, low, high, log=True) for name, (low, high) in ranges.items()]
        trial.report(100.0, 1)
        return 80 + values[0]

    study.optimize(objective, n_trials=8)
    svgs = {plot.name: plot.svg() for plot in search_plots(study)}
    assert {"parallel_coordinates", "slices"} <= set(svgs)
    for name, svg in svgs.items():
        assert "math" not in svg, name
    assert ">0.005<" in svgs["slices"]


def test_a_point_that_was_tried_again_is_one_point_in_the_figures():
    """A worker that was killed leaves an attempt behind, and the figures are those of a search without it."""

    def search(killed):
        study = optuna.create_study()
        study.set_user_attr("search", {})
        study.set_user_attr("trials", 3)
        for point in (*killed, 0, 1, 2):
            study.enqueue_trial({"lr": 0.1 * (point + 1)}, user_attrs={"point": point})
            trial = study.ask()
            trial.suggest_float("lr", 0.1, 0.9)
            if len(study.get_trials()) <= len(killed):
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
                continue
            trial.report(90.0 - point, 1)
            study.tell(trial, 80.0 - point**2)
        return {plot.name: plot.svg() for plot in search_plots(study)}

    assert search(()) == search((0,)) == search((2, 0))
