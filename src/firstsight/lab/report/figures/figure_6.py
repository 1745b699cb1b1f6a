"""Figure 6: test perplexity on GigaWord, on a fresh random subsample of articles at each point."""

from firstsight.lab.report.figures.curves import GIGAWORD, HEADS, CurvesFigure, Panel

ARTICLES = {"cpu": 200, "paper": 2000}
"""Test articles of each point: our decision, the appendix only says that it takes a random subsample."""


def figure(scale: str) -> CurvesFigure:
    """Plain and Hebbian softmax on newspaper articles."""
    sampled = {"test_documents": ARTICLES[scale]}
    return CurvesFigure(
        title="Figure 6: GigaWord",
        says="Trained on all articles of 2000 to 2009, tested on those of 2010: a random subsample of them at each "
        "point, so the measurements are noisy.",
        panels=[Panel("perplexity of test articles", {name: variant for name, (variant, _) in HEADS.items()})],
        variants={variant: {**settings, **sampled} for variant, settings in HEADS.values()},
        source=GIGAWORD,
        measure="test_sample",
        split="",  # the whole of 2010 in one stream would take longer than the training
    )
