"""The language model: embedding, LSTM, and the projection that is tied into and out of it.

Shape suffixes: B sequences, S steps, V vocabulary, D width of embedding and softmax, H LSTM units, L layers.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from firstsight.errors import InputError
from firstsight.lab.lm.config import Config
from firstsight.lab.lm.recurrent.layer_norm import LayerNormLSTM
from firstsight.lab.lm.recurrent.plain import PlainLSTM, State


def head_width(config: Config) -> int:
    """The ``in_features`` of these settings' head: with the projection the embedding's width, else the LSTM's."""
    if config.projection:
        return config.embedding
    if config.tied and config.embedding != config.hidden:
        raise InputError(
            f"embedding is {config.embedding} and hidden is {config.hidden}, and a tied embedding without the "
            "projection needs both alike. Set one to the other, or projection to true, or tied to false."
        )
    return config.hidden


def num_parameters(model: nn.Module) -> int:
    """Trainable parameters, a shared one counted once. The paper's model has 171,691,520."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


class LanguageModel(nn.Module):
    r"""An LSTM that turns tokens into the inputs of a head.

    .. math::
        x = \mathrm{dropout}(E[w]) P^\top, \qquad y, (h, c) = \mathrm{LSTM}(x, (h, c)), \qquad \mathrm{hidden} = y P

    with the embedding :math:`E` [V, embedding] and one projection :math:`P` [H, D] for both ways; without it, P
    is left out. A tied model has no embedding of its own: E *is* ``head.weight``, so a Hebbian write reaches it too. Of
    an adaptive softmax it is what the rows are in the activations' space, ``AdaptiveSoftmax.embedding``.

    The settings are those of the paper's sweep (appendix A.1); the projection and the count of the parameters come
    from secondary sources. Our decisions:

    - One bias vector in each layer, as the paper's parameter count has it. torch's second one stays, held at zero.
    - The forget gate's bias starts at 1 (Jozefowicz et al. 2015): the cell then keeps its content from the first
      step on, and gradients reach back further than with a gate half shut. Other biases start at 0.
    - LSTM weights start uniform in +-1/sqrt(H), torch's own; an untied embedding uniform in +-1/sqrt(width), as
      the heads start theirs; P semi-orthogonal with entries of root mean square 1/2. An embedding as short as a
      softmax row wants would give the gates next to nothing: with P of length-keeping scale, WikiText-2 stood at
      5.46 nats after 450 steps (D 128, H 256, the 5,000 most frequent words, one seed), with this scale at 5.20.
    - Under autocast the LSTM runs in the low precision as well (1.3 to 2 times as fast as in float32 on a CPU with
      avx512_bf16; a CPU without runs it in float32); the state that is handed on is in the precision of the weights.

    Args:
        vocab_size: V.
        config: its settings of the model (``embedding`` to ``tied``) are used.
        head: the output layer, with ``weight`` [V, ``head_width(config)``].
    """

    head: Any  # a Module, of which mypy would not know ``weight``, ``loss`` and ``nll``

    def __init__(self, vocab_size: int, config: Config, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        width, expected = config.embedding, (vocab_size, head_width(config))
        if (found := (self.head.num_classes, self.head.in_features)) != expected:
            raise InputError(
                f"the head's weight is {list(found)}, but the model needs [vocabulary, width] = "
                f"{list(expected)}. Make the head with in_features={expected[1]}, num_classes={expected[0]}."
            )
        self.embedding = None if config.tied else nn.Parameter(torch.empty(vocab_size, width))
        self._sparse = config.sparse
        self.dropout = nn.Dropout(config.dropout)
        self.projection = nn.Parameter(torch.empty(config.hidden, width)) if config.projection else None
        layer = LayerNormLSTM if config.layer_norm else PlainLSTM
        inputs = [config.hidden if config.projection else width] + [config.hidden] * (config.layers - 1)
        self.lstm = nn.ModuleList(layer(size, config.hidden) for size in inputs)
        if self.embedding is not None:
            nn.init.uniform_(self.embedding, -1 / math.sqrt(width), 1 / math.sqrt(width))
        if self.projection is not None:
            nn.init.orthogonal_(self.projection, gain=math.sqrt(max(config.hidden, width)) / 2)

    @property
    def num_types(self) -> int:
        """V."""
        return int(self.head.num_classes)

    @property
    def rows(self) -> Tensor:
        """``head.weight`` [V, D].

        Raises:
            InputError: the head is an adaptive softmax, whose rows are of several widths.
        """
        if not isinstance(weight := getattr(self.head, "weight", None), Tensor):
            raise InputError(
                f"this needs the rows of one matrix, and those of a {type(self.head).__name__} are of several widths. "
                "Use a run that was trained without --cutoffs."
            )
        return weight

    def forward(self, tokens_BS: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Read tokens and give the head's inputs.

        Args:
            tokens_BS: [B, S] long.
            state: (h, c), each [L, B, H], as an earlier call returned it; None for zeros.

        Returns:
            hidden [B, S, ``head_width(config)``], and the state after the last step, (h, c), each [L, B, H].
            The state is part of the graph: detach it where no gradient should flow into earlier sequences.
        """
        E = self.embedding
        x_BSD = self.head.embedding(tokens_BS) if E is None else F.embedding(tokens_BS, E, sparse=self._sparse)
        y_BSH = self.dropout(x_BSD)
        if self.projection is not None:
            y_BSH = y_BSH @ self.projection.t()
        h, c, dtype = [], [], next(self.parameters()).dtype
        if state is not None:  # which lightning-fabric casts on its way in, as it does inputs
            state = state[0].to(dtype), state[1].to(dtype)
        for i, layer in enumerate(self.lstm):
            first = None if state is None else (state[0][i : i + 1], state[1][i : i + 1])
            y_BSH, (h_1BH, c_1BH) = layer(y_BSH, first)
            h.append(h_1BH)
            c.append(c_1BH)
        hidden_BSD = y_BSH if self.projection is None else y_BSH @ self.projection
        return hidden_BSD, (torch.cat(h).to(dtype), torch.cat(c).to(dtype))
