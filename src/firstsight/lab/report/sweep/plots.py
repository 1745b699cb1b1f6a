"""The figures of a search: Optuna's own, in the dress of the other figures."""

import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import optuna
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from optuna.trial import TrialState
from optuna.visualization import matplotlib as drawn

from firstsight.lab.report.style import GRID, INK, MUTED, SMALL, STYLE, WIDE, WIDTH, Plot
from firstsight.lab.studies.search.points import telling, trials_of

PALEST = 0.75  # of red, green and blue, for colours that stand for a value


def search_plots(study: optuna.Study) -> list[Plot]:
    """What Optuna draws of a search, the parallel coordinates first; nothing before two points are finished."""
    study = _points_of(study)
    done = [trial for trial in study.get_trials(deepcopy=False) if trial.state == TrialState.COMPLETE]
    if len(done) < 2:
        return []
    varied = [name for name in done[0].params if len({str(trial.params.get(name)) for trial in done}) > 1]
    makers: list[tuple[str, str, Callable[[], Any]]] = [
        (
            "parallel_coordinates",
            "Each line is a finished point, from its perplexity to its settings; the darker, the better.",
            lambda: drawn.plot_parallel_coordinate(study, params=varied or None, target_name="perplexity"),
        ),
        (
            "history",
            "Perplexity of the points in their order, and the best so far.",
            lambda: drawn.plot_optimization_history(study, target_name="perplexity"),
        ),
        (
            "slices",
            "Perplexity by the values of each setting; the darker, the later.",
            lambda: drawn.plot_slice(study, params=varied or None, target_name="perplexity"),
        ),
        (
            "validations",
            "Perplexity at the validations, a line a trial: the mean of its runs so far, each by its best.",
            lambda: drawn.plot_intermediate_values(study),
        ),
    ]
    if len(varied) > 1:
        makers.append(
            (
                "importances",
                "How much of the perplexity's variance each setting explains (PED-ANOVA, over the better points).",
                lambda: drawn.plot_param_importances(
                    study,
                    evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                    params=varied,
                    target_name="perplexity",
                ),
            )
        )
    return [Plot(name, caption, _figure(name, make)) for name, caption, make in makers]


def _points_of(study: optuna.Study) -> optuna.Study:
    """A study with a trial for each point, in their order: one that was killed and tried again is no other point."""
    if "search" not in study.user_attrs:
        return study
    found = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="minimize")
    drawn_of = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
    known = [telling(trials) for trials in trials_of(study).values()]
    found.add_trials(trial for trial in known if trial is not None and trial.state in drawn_of)
    return found


def _figure(name: str, make: Callable[[], Any]) -> Figure:
    """Optuna's figure, taken out of pyplot's hands, which is put back as it was."""
    backend = matplotlib.get_backend()
    with matplotlib.rc_context({"figure.constrained_layout.use": True}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that these functions are experimental, since Optuna 2.2
        pyplot.switch_backend("agg")
        try:
            axes = make()
            figure: Figure = (axes.flat[0] if hasattr(axes, "flat") else axes).figure
            pyplot.close(figure)
        finally:
            pyplot.switch_backend(backend)
    _dress(figure, name)
    return figure


def _dress(figure: Figure, name: str) -> None:
    """Our sizes, type and colours of what is no data."""
    wide = name in ("parallel_coordinates", "slices")
    figure.set_size_inches(WIDE if wide else WIDTH, 3.4 if wide else 2.9)
    figure.patch.set_facecolor("none")
    if name == "validations":  # the others were born with it
        figure.set_layout_engine("constrained")
    figure.suptitle("")
    for axes in figure.axes:
        axes.set_facecolor("none")
        for place in ("left", "center"):
            axes.set_title("", loc=place)
        axes.tick_params(colors=MUTED, labelsize=STYLE["xtick.labelsize"], length=0)
        for label in (axes.xaxis.label, axes.yaxis.label):
            label.set_color(MUTED)
            label.set_fontsize(STYLE["axes.labelsize"])
        for collection in axes.collections:
            if collection.get_array() is not None:  # their palest is white on white
                colors = collection.get_cmap()(np.linspace(0, 1, 256))
                pale = colors[:, :3].min(1) > PALEST
                collection.set_cmap(ListedColormap(colors[~pale]))
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":  # its own labels are formulas, which STYLE does not parse
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(NullFormatter())
        if axes.get_xlabel() == "Trial":
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        for spine in axes.spines.values():
            spine.set_edgecolor(MUTED)
            spine.set_linewidth(0.6)
        if name not in ("parallel_coordinates",):
            axes.grid(visible=True, color=GRID, linewidth=0.6)
            axes.set_axisbelow(True)
            axes.spines[["top", "right"]].set_visible(False)
        if legend := axes.get_legend():
            _dress_legend(axes, name, legend)
        for text in axes.texts:
            text.set_fontsize(SMALL)
            text.set_color(INK)


def _dress_legend(axes: Axes, name: str, legend: Any) -> None:
    if name in ("validations", "importances"):  # a name for each of a hundred lines says nothing, nor one for all
        legend.remove()
        return
    legend.set_frame_on(False)
    for text in legend.get_texts():
        text.set_fontsize(SMALL)
        text.set_color(INK)
