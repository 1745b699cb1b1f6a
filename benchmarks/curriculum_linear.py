"""The curriculum with an embedding that does not end with ReLU: RMSProp, the three heads of Figure 10, ten seeds.

    python benchmarks/curriculum_linear.py --data data/omniglot --out runs/linear

30 runs of about a minute on one core; killed, the same command goes on. Writes linear.json and PNGs.
"""

from pathlib import Path

import tyro

from firstsight.lab.curriculum import Curriculum
from firstsight.lab.curriculum.convnet import Network
from firstsight.lab.curriculum.summary import Panel
from firstsight.lab.report.figures.curricula import STEPS, CurriculaFigure
from firstsight.lab.report.figures.figure_10 import HEADS


def main(data: Path = Path("data/omniglot"), out: Path = Path("runs/linear"), seeds: int = 10) -> None:
    """Run and draw."""
    network = Network(activation="none")
    lines = {line: f"none-rmsprop-0.006-{head}" for line, (head, _) in HEADS.items()}
    variants = {
        lines[line]: Curriculum(network=network, optimizer="rmsprop", max_steps=STEPS["cpu"], **settings)
        for line, (_, settings) in HEADS.items()
    }
    panels = [Panel("without ReLU, RMSProp 0.006", lines)]
    figure = CurriculaFigure("Omniglot curriculum without ReLU", panels, variants)
    found = figure.make("linear", data, range(seeds), out, out / "runs", None, {})
    print("\n".join(found["files"]))


if __name__ == "__main__":
    tyro.cli(main)
