"""Figure 5: validation perplexity on Gutenberg's books, and how many classes have been seen, and past T."""

from firstsight.lab.report.figures.curves import GUTENBERG, HEADS, CurvesFigure, Panel


def figure(scale: str) -> CurvesFigure:
    """Plain and Hebbian softmax on books."""
    return CurvesFigure(
        title="Figure 5: Gutenberg",
        says="All classes have been seen after about 4B training tokens. Until then the Hebbian softmax is ahead; "
        "after that it comes back to the performance of the plain one.",
        panels=[Panel("validation perplexity", {name: variant for name, (variant, _) in HEADS.items()})],
        variants=dict(HEADS.values()),
        source=GUTENBERG[scale],
        classes=True,
    )
