"""Figure 11: the plain softmax in the Omniglot curriculum at several learning rates."""

from firstsight.lab.curriculum.settings import RATES, Curriculum
from firstsight.lab.curriculum.summary import Panel
from firstsight.lab.report.figures.curricula import CurriculaFigure

RMSPROP_RATES = (0.002, 0.004, 0.006, 0.008, 0.012, 0.02)


def figure(steps: int) -> CurriculaFigure:
    """Classes learned against steps: plain softmax, RMSProp at six learning rates."""
    lines, variants = {}, {}
    for rate in RMSPROP_RATES:
        lines[f"{rate:g}"] = name = f"relu-rmsprop-{rate:g}-softmax"
        lr = 0.0 if rate == RATES["rmsprop"] else rate  # as Figure 10 has it, which shares the runs
        variants[name] = Curriculum(head="softmax", optimizer="rmsprop", lr=lr, max_steps=steps)
    return CurriculaFigure("Figure 11: learning rate", [Panel("softmax, by RMSProp's learning rate", lines)], variants)
