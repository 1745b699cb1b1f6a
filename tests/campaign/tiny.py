"""The process that all commands are forked from: everything imported once, and sizes at which a command is short."""

import ctypes
import gc
import importlib
import json
import os
import pkgutil
import signal
import sys
import warnings
from functools import partial
from html import escape
from pathlib import Path
from types import SimpleNamespace

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "helpers"))
os.environ.setdefault("NLTK_DATA", str((ROOT.parent / "shared" / "nltk_data").resolve()))

WIKITEXT = {"train": 958, "valid": 87, "test": 87, "vocabulary": 62}
OMNIGLOT = {"background": 3, "evaluation": 2}
FIGURE = {"embedding": 8, "hidden": 8, "batch": 4, "length": 10, "lr": 0.01, "bias": True, "steps": 4, "eval_every": 2}
FIGURE_STEPS = 4


def prepare() -> None:
    """Import what any command could import, so that a fork starts at once, and make the large things small."""
    import matplotlib.pyplot  # noqa: F401
    import nltk  # noqa: F401
    import torch
    import torch._dynamo

    import firstsight

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for module in pkgutil.walk_packages(firstsight.__path__, "firstsight."):
        if "huggingface" not in module.name and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    _small_corpora()
    _small_figures()
    _small_trials()
    _sketches()
    _forks()
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page


def _small_corpora() -> None:
    from firstsight.lab.data import wikitext
    from firstsight.lab.data.omniglot import archives
    from firstsight.lab.lm import reader
    from firstsight.lab.reading import grids, recalled

    wikitext.EXPECTED["wikitext-2"] = WIKITEXT
    archives.CLASSES.update(OMNIGLOT)
    reader.BLOCK = recalled.CHUNK = grids.CHUNK = 64  # a text of 200 tokens is read in several parts
    for name, values in {"SIZES": (40, 300), "THETAS": (0.1, 0.8), "KS": (5, 20), "LRS": (0.1, 2.0)}.items():
        setattr(grids, name, values)


def _small_figures() -> None:
    from firstsight.lab.lm.config import Config
    from firstsight.lab.lm.dry_run import measure
    from firstsight.lab.report.figures import curricula, curves

    curves.SCALES["cpu"] = curves.Scale(Config(**FIGURE))
    curves.step_ratio = partial(curves.step_ratio, rounds=1)
    curricula.STEPS["cpu"] = FIGURE_STEPS
    measure._STEPS, measure._SHORTEST = 1, 0.0


def _small_trials() -> None:
    """Two methods, and no timing: what is planned does not depend on how busy the machine is."""
    from firstsight.lab.classify import trial
    from firstsight.lab.classify.runs.plan import Plan, Units

    units = Units(step=0.001, writing=0.001, ask=1e-6, steps=10, rows=100, logits=1000, kept=10.0)
    trial.timed = lambda task, settings: units
    trial.make_plan = lambda units, settings, budget, workers: Plan(
        1, 1, 1, ("sight", "means"), False, False, budget, 1.0, workers
    )


def _sketches() -> None:
    """Figures as lists of what is in them: drawing takes four fifths of the time, and is not what is attacked."""
    from matplotlib.figure import Figure

    def savefig(self, file, format, **_) -> None:
        text = f"<svg>{escape(json.dumps(_told(self)))}</svg>"
        file.write(text if format == "svg" and not hasattr(file, "mode") else text.encode())

    Figure.savefig = savefig


def _told(figure) -> list:
    """All lines, areas and words of a figure, with their numbers."""
    from matplotlib.collections import Collection
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch, Rectangle
    from matplotlib.text import Text

    told: list = []
    for artist in figure.findobj():
        if isinstance(artist, Line2D):
            told.append([artist.get_label(), np.asarray(artist.get_xydata(), dtype=float).tolist()])
        elif isinstance(artist, Patch):
            place = artist.get_bbox().bounds if isinstance(artist, Rectangle) else ()
            told.append([artist.get_label(), artist.get_path().vertices.tolist(), [float(x) for x in place]])
        elif isinstance(artist, Collection):
            told.append([artist.get_label(), np.asarray(artist.get_offsets(), dtype=float).tolist()])
            told += [path.vertices.tolist() for path in artist.get_paths()]
        elif isinstance(artist, Text) and artist.get_text():
            told.append(artist.get_text())
    return told


def _forks() -> None:
    """Jobs and pools as forks too, in place of fresh Pythons whose imports take longer than their work."""
    import multiprocessing

    from forked import Forked

    from firstsight.lab.data import pool
    from firstsight.lab.runs import jobs
    from firstsight.lab.system import machine

    jobs.subprocess = SimpleNamespace(Popen=Forked, PIPE=None)
    pool.multiprocessing = SimpleNamespace(get_context=lambda _: _ForkContext(multiprocessing.get_context("fork")))
    start = pool._start

    def end_with_parent(lifeline) -> None:
        ctypes.CDLL(None).prctl(
            1, signal.SIGKILL
        )  # a fork holds the lifeline's other end too, and would not see it close
        start(lifeline)

    pool._start = end_with_parent
    commit = machine._git_commit()
    machine._git_commit = lambda: commit  # two processes of git for each result


class _ForkContext:
    """multiprocessing's, which has nothing to preload."""

    def __init__(self, context) -> None:
        self._context = context

    def set_forkserver_preload(self, names) -> None:
        """Everything is there."""

    def __getattr__(self, name):
        return getattr(self._context, name)
