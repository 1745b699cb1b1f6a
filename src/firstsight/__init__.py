"""firstsight: classifiers that remember a class from its first example.

The names below are imported when they are first asked for: torch takes seconds, and the command, which imports this
file before its own, must be able to answer Ctrl-C before them.
"""

from importlib import import_module

from firstsight._version import __version__

TYPE_CHECKING = False  # type checkers know it by its name; typing would take half the time of all that is here
if TYPE_CHECKING:
    from firstsight import functional
    from firstsight.errors import InputError
    from firstsight.heads import (
        AdaptiveSoftmax,
        HebbianAdaptiveSoftmax,
        HebbianSampledSoftmax,
        HebbianShardedSoftmax,
        HebbianSoftmax,
        SampledSoftmax,
        ShardedSoftmax,
        Softmax,
    )
    from firstsight.heads.adopted import attach
    from firstsight.heads.steps.sparse import clip_grad_norm_
    from firstsight.heads.steps.wrapping import prepare_ddp
    from firstsight.memory import MbPA, NeuralCache, score_stream
else:
    _ROOMS = ("errors", "functional", "heads", "memory")
    _PLACES = {"InputError": "errors", "attach": "heads.adopted"}
    _PLACES |= {"clip_grad_norm_": "heads.steps.sparse", "prepare_ddp": "heads.steps.wrapping"}
    _PLACES |= dict.fromkeys(("MbPA", "NeuralCache", "score_stream"), "memory")

    def __getattr__(name: str) -> object:
        if name in _ROOMS:
            return import_module(f"firstsight.{name}")
        if name not in __all__:
            raise AttributeError(f"module 'firstsight' has no attribute {name!r}")
        globals()[name] = found = getattr(import_module(f"firstsight.{_PLACES.get(name, 'heads')}"), name)
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_ROOMS})


__all__ = [
    "AdaptiveSoftmax",
    "HebbianAdaptiveSoftmax",
    "HebbianSampledSoftmax",
    "HebbianShardedSoftmax",
    "HebbianSoftmax",
    "InputError",
    "MbPA",
    "NeuralCache",
    "SampledSoftmax",
    "ShardedSoftmax",
    "Softmax",
    "__version__",
    "attach",
    "clip_grad_norm_",
    "functional",
    "prepare_ddp",
    "score_stream",
]
