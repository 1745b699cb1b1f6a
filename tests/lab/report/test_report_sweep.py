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
