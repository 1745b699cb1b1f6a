"""Figure 8: a sampled softmax beside the full one, and what a step of each takes."""

from firstsight.lab.report.figures.curves import HEADS, WIKITEXT, CurvesFigure, Panel

SAMPLES = {"cpu": 1024, "paper": 8192}
"""Classes of a sample: the paper's 8,192 are 3% of WikiText-103's and more than stdlib has; 1,024 are 14% of those."""


def figure(scale: str) -> CurvesFigure:
    """Plain and Hebbian softmax over all classes and over a sample of them."""
    samples = SAMPLES[scale]
    sampled = {"samples": samples}
    if scale == "paper":
        sampled["accumulate"] = 2  # two parts of 256 sequences, as on the paper's two GPUs
    return CurvesFigure(
        title="Figure 8: sampled softmax",
        says="With 8,192 sampled classes both models end 2 to 3 points of perplexity above the full softmax, and the "
        "Hebbian one is still ahead. Wall time falls from 6 days on 8 GPUs to 2 on 2, with a batch as large in all.",
        panels=[
            Panel("all {classes} classes", {name: variant for name, (variant, _) in HEADS.items()}),
            Panel(
                f"{samples:,} sampled classes",
                {name: f"{variant}-sampled-{samples}" for name, (variant, _) in HEADS.items()},
            ),
        ],
        variants={
            **dict(HEADS.values()),
            **{f"{variant}-sampled-{samples}": {**settings, **sampled} for variant, settings in HEADS.values()},
        },
        source=WIKITEXT[scale],
        timed={name: (variant, f"{variant}-sampled-{samples}") for name, (variant, _) in HEADS.items()},
    )
