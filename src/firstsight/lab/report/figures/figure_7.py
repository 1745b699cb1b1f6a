"""Figure 7: AdaGrad 0.2 in place of RMSProp."""

from firstsight.lab.report.figures.curves import HEADS, SCALES, WIKITEXT, CurvesFigure, Panel


def figure(scale: str) -> CurvesFigure:
    """Plain and Hebbian softmax under two optimizers."""
    adagrad = {"optimizer": "adagrad", "lr": 0.2}
    rate = SCALES[scale].base.lr
    return CurvesFigure(
        title="Figure 7: AdaGrad",
        says="With AdaGrad at a learning rate of 0.2 both the plain and the Hebbian softmax are, after 15B steps, far "
        "from what RMSProp at 0.001 reaches.",
        panels=[
            Panel(f"RMSProp {rate:g}", {name: variant for name, (variant, _) in HEADS.items()}),
            Panel("AdaGrad 0.2", {name: f"{variant}-adagrad-0.2" for name, (variant, _) in HEADS.items()}),
        ],
        variants={
            **dict(HEADS.values()),
            **{f"{variant}-adagrad-0.2": {**settings, **adagrad} for variant, settings in HEADS.values()},
        },
        source=WIKITEXT[scale],
    )
