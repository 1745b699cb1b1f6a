"""Figure 10: how fast classes are learned in the Omniglot curriculum, plain and Hebbian, by optimizer.

It is drawn for two embeddings before the head, because they decide who leads (docs/omniglot.md); the paper does not
describe its own.
"""

from typing import Any

from firstsight.lab.curriculum.convnet import Network
from firstsight.lab.curriculum.settings import RATES, Curriculum
from firstsight.lab.curriculum.summary import Panel
from firstsight.lab.report.figures.curricula import OPTIMIZERS, CurriculaFigure

SETUPS = {"ReLU embedding": ("relu", Network()), "embedding of length 3": ("unit", Network(unit=True, scale=3.0))}
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "softmax": ("softmax", {"head": "softmax"}),
    "Hebbian, the paper's rule": ("paper", {"head": "hebbian", "rule": "paper"}),
    "Hebbian, rule centered (ours)": ("centered", {"head": "hebbian", "rule": "centered"}),
}


def figure(steps: int) -> CurriculaFigure:
    """Classes learned against steps: softmax and Hebbian Softmax (T = 10, gamma = 0.1), by optimizer."""
    panels, variants = [], dict[str, Curriculum]()
    for row, (setup, network) in SETUPS.items():
        for optimizer, title in OPTIMIZERS.items():
            lines = {}
            for line, (head, settings) in HEADS.items():
                name = f"{setup}-{optimizer}-{RATES[optimizer]:g}-{head}"
                lines[line] = name
                variants[name] = Curriculum(network=network, optimizer=optimizer, max_steps=steps, **settings)
            panels.append(Panel(f"{title} {RATES[optimizer]:g}", lines, row))
    return CurriculaFigure("Figure 10: Omniglot curriculum", panels, variants)
