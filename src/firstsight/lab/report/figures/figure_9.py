"""Figure 9: the inner objectives of the write, under the paper's rule."""

from firstsight.lab.report.figures.curves import HEADS, PAPER, SIGHT, SOFTMAX, WIKITEXT, CurvesFigure, Panel

OBJECTIVES = {"softmax": "the paper's rule, softmax", "inner_product": "the paper's rule, inner product"}


def figure(scale: str) -> CurvesFigure:
    """The paper's rule on three inner objectives, beside the plain softmax."""
    paper, settings = HEADS[PAPER]
    others = {line: f"{paper}-{objective}" for objective, line in OBJECTIVES.items()}
    changed = {f"{paper}-{objective}": {**settings, "objective": objective} for objective in OBJECTIVES}
    lines = {SOFTMAX: HEADS[SOFTMAX][0], "the paper's rule, L2": paper, **others, SIGHT: HEADS[SIGHT][0]}
    return CurvesFigure(
        title="Figure 9: inner objectives",
        says="Inner objectives that are nearer to the training objective, softmax for one, are no significant "
        "improvement over L2.",
        panels=[Panel("validation perplexity", lines)],
        variants={**dict(HEADS.values()), **changed},
        source=WIKITEXT[scale],
    )
