"""The settings of a run: one flat frozen dataclass, to and from YAML."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from firstsight.errors import InputError
from firstsight.lab.runs.head import HeadSettings
from firstsight.lab.runs.optimizer import OptimizerName
from firstsight.lab.system.files import atomic_write, read_yaml


@dataclass(frozen=True)
class Config(HeadSettings):
    """Everything that decides a training run but the data. Recipes are instances of it."""

    # -- model
    embedding: int = 128
    """width D of the embedding and of the softmax"""
    hidden: int = 256
    """LSTM units"""
    layers: int = 1
    """LSTM layers, 1 or 2"""
    dropout: float = 0.3
    """dropout on the embedded input"""
    layer_norm: bool = False
    """layer norm inside the LSTM's gates"""
    projection: bool = True
    """one weight-tied projection leads into and out of the LSTM; without it embedding = hidden is needed when tied"""
    tied: bool = True
    """input and output embedding are one matrix"""
    # -- head
    bias: bool = False
    """a bias for each class in the output layer"""
    bias_start: Literal["zero", "unigram"] = "zero"
    """unigram: each class's bias starts at the log of its frequency in the training text"""
    write_embedding: bool = True
    """hebbian, tied: the write reaches the input embedding too, as in the paper"""
    write_after: int = 0
    """hebbian: steps that only count before the first write"""
    # -- optimisation
    optimizer: OptimizerName = "rmsprop"
    """torch's, with its defaults for all that is not named here"""
    lr: float = 0.001
    """learning rate"""
    momentum: float = 0.0
    """momentum, for sgd and rmsprop"""
    weight_decay: float = 0.0
    """torch's, for any optimizer"""
    clip: float = 0.1
    """largest norm of the gradient; 0 clips nothing"""
    batch: int = 16
    """sequences in a step, of all processes together"""
    length: int = 70
    """tokens in a sequence"""
    accumulate: int = 1
    """the batch is worked through in this many parts, their gradients summed: side by side in the processes of
    torchrun, the rest one after the other (8 parts are 8 in one process, 2 in each of four, 1 in each of eight)"""
    pass_state: bool = False
    """hand the LSTM's state from one sequence to the next (the paper does not)"""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16: matrix products in bfloat16, weights and sums in float32"""
    warmup: int = 0
    """steps over which the learning rate rises from 0"""
    decay: Literal["none", "linear", "cosine"] = "none"
    """how the learning rate falls to 0 between warm-up and the last step"""
    # -- when
    steps: int = 5000
    """optimizer steps in all"""
    minutes: float = 0.0
    """end after so many minutes of training; 0 for no limit"""
    eval_every: int = 500
    """steps between validations"""
    checkpoint_every: int = 500
    """steps between checkpoints; 0 for none by steps"""
    checkpoint_minutes: float = 10.0
    """minutes between checkpoints; 0 for none by time"""
    patience: int = 0
    """end after so many validations without a new best; 0 never does"""
    test_documents: int = 0
    """at each validation also measure so many test documents, drawn anew each time (the paper's Figure 6); 0: none"""
    seed: int = 0
    """of the first weights and of dropout"""

    def __post_init__(self) -> None:
        """Check every value: names the setting, what was given and what is expected."""
        super().__post_init__()
        for name in ("embedding", "hidden", "batch", "length", "accumulate", "steps", "eval_every"):
            self._require(name, getattr(self, name) >= 1, "1 or more")
        for name in ("momentum", "weight_decay", "clip", "warmup", "minutes", "checkpoint_every", "write_after"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        for name in ("checkpoint_minutes", "patience", "test_documents"):
            self._require(name, getattr(self, name) >= 0, "0 or more")
        self._require("layers", self.layers in (1, 2), "1 or 2")
        self._require("dropout", 0 <= self.dropout < 1, "in [0, 1)")
        self._require("lr", self.lr > 0, "above 0")
        takes = self.optimizer in ("adagrad", "sgd") and not self.momentum and not self.weight_decay
        kinds = "false, or optimizer to be adagrad or sgd, without momentum and weight_decay, which reach all rows"
        self._require("sparse", takes or not self.sparse, kinds)
        spared = self.tied and not self.write_embedding
        self._require("weight_decay", not (spared and self.weight_decay), "0 where write_embedding is false")
        self._require("bias_start", self.bias or self.bias_start == "zero", "zero, or bias to be true")
        self._require("seed", 0 <= self.seed < 2**63, "from 0 to 2^63 - 1")
        self._require("accumulate", self.batch % self.accumulate == 0, f"a divisor of batch = {self.batch}")

    def rate_at(self, step: int) -> float:
        """The learning rate of a step: a linear rise over ``warmup`` steps, then ``decay`` towards 0 at the last."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, self.steps - self.warmup)
        factor = {"none": 1.0, "linear": 1 - done, "cosine": 0.5 * (1 + math.cos(math.pi * min(1.0, done)))}
        return self.lr * factor[self.decay]


def save_config(path: str | Path, data: str, config: Config) -> None:
    """Write ``config.yaml``: the data folder and every setting."""
    with atomic_write(path) as file:
        yaml.safe_dump({"data": data, **config.to_dict()}, file, sort_keys=False)


def load_config(path: str | Path) -> tuple[str, Config]:
    """Read what ``save_config`` wrote: (data folder, settings)."""
    if not Path(path).exists():
        raise InputError(f"{path}: there is no such file. Is {Path(path).parent} the folder of a run?")
    values = read_yaml(path, "the settings of a run")
    data = values.get("data") if isinstance(values, dict) else None
    if not isinstance(data, str) or not data or "\0" in data:
        raise InputError(f"{path}: expected settings by name, among them data: FOLDER.")
    data = values.pop("data")
    return data, Config.from_dict(values, str(path))
