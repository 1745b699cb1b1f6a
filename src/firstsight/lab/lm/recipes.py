"""Named settings: the paper's, and ones that fit a CPU."""

from firstsight.errors import InputError
from firstsight.lab.lm.config import Config
from firstsight.lab.system.shape import shown

# What docs/when.md recommends on CPUs: biases started at the frequencies, and the write that is the default.
# --rule paper --T 500 --gamma 0.01 is the paper's write under the same settings.
_SMALL = Config(bias=True, bias_start="unigram")

RECIPES: dict[str, Config] = {
    # 1,120 tokens a step: a few minutes an epoch of WikiText-2 on two cores.
    "small": _SMALL,
    # The corpus inside, 360 steps an epoch: three runs train and are evaluated in about five minutes on two cores.
    "demo": _SMALL.replace(embedding=64, hidden=192, lr=0.004, steps=720, eval_every=120, checkpoint_every=120),
    # Appendix A.1 and A.5.1: 512 sequences of 100 tokens, gradients of all devices summed, clipped to 0.1.
    # A single device works the batch through in 8 parts, as the paper's 8 did side by side.
    "paper": Config(
        embedding=512,
        hidden=2048,
        layers=1,
        dropout=0.3,
        layer_norm=False,
        projection=True,
        tied=True,
        bias=False,
        rule="paper",
        T=500,
        gamma=0.01,
        optimizer="rmsprop",
        lr=0.001,
        clip=0.1,
        batch=512,
        length=100,
        accumulate=8,
        steps=300_000,
        eval_every=2000,
        checkpoint_every=2000,
    ),
}


def recipe(name: str) -> Config:
    """The settings of that name."""
    if name not in RECIPES:
        raise InputError(f"recipe is {shown(name)}; expected one of {', '.join(RECIPES)}.")
    return RECIPES[name]
