"""The whole training step against that of pytorch/examples' word_language_model, at the same shape.

Its step as people copy it, written anew here: embedding, dropout, `nn.LSTM`, dropout, a tied `nn.Linear`, log_softmax
and NLLLoss, clipping, and weights moved by hand, in float32. Ours is what `firstsight train` does in a step, with the
sight curve and the write: LSTM 128, tied, N = 16 x 70 tokens, V = 33,278. Run alone on the machine:

    OMP_NUM_THREADS=2 python benchmarks/word_language_model.py
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import arguments, paired, print_and_save, ratios
from torch import Tensor, nn

from firstsight.lab.lm.recipes import recipe
from firstsight.lab.lm.run import build_model, build_optimizer
from firstsight.lab.lm.sights import Sights

V, D, B, S = 33_278, 128, 16, 70
RESULT = "benchmarks/results/word_language_model.json"
CONFIG = recipe("small").replace(embedding=D, hidden=D, projection=False, batch=B, length=S)
# Words by Zipf's law, as in text: the write depends on how many different ones a batch holds.
FREQUENCY_V = 1 / torch.arange(1, V + 1, dtype=torch.float64)


def draw() -> tuple[Tensor, Tensor]:
    """Inputs and targets, each [B, S]."""
    x_BS, y_BS = torch.multinomial(FREQUENCY_V, 2 * B * S, replacement=True).view(2, B, S)
    return x_BS, y_BS


class WordLanguageModel(nn.Module):
    """The example's model, one layer, with our dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.encoder, self.rnn = nn.Dropout(CONFIG.dropout), nn.Embedding(V, D), nn.LSTM(D, D, 1)
        self.decoder = nn.Linear(D, V)
        self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, x_SB: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Log probabilities [N, V], and the state."""
        y_SBD, state = self.rnn(self.drop(self.encoder(x_SB)), state)
        return F.log_softmax(self.decoder(self.drop(y_SBD)).view(-1, V), dim=1), state


def example_step() -> Callable[[], float]:
    """The example's step, which goes on training one model and hands its state on."""
    torch.manual_seed(0)
    model, criterion = WordLanguageModel().train(), nn.NLLLoss()
    state = torch.zeros(1, B, D), torch.zeros(1, B, D)

    def step() -> float:
        nonlocal state
        x_BS, y_BS = draw()
        model.zero_grad()
        state = state[0].detach(), state[1].detach()
        logp_NV, state = model(x_BS.t(), state)
        loss = criterion(logp_NV, y_BS.t().reshape(-1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.data.add_(parameter.grad, alpha=-1.0)
        return float(loss.item())

    return step


def our_step(head: str, precision: str) -> Callable[[], float]:
    """What the training loop does in a step."""
    torch.manual_seed(0)
    model = build_model(V, CONFIG.replace(head=head)).train()
    optimizer = build_optimizer(model, CONFIG)
    model.head.attach(optimizer)
    sights = Sights(V)

    def step() -> float:
        x_BS, y_BS = draw()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            hidden_BSD, _ = model(x_BS)
            loss, nll_BS = model.head.loss_and_nll(hidden_BSD, y_BS)
        sights.add(nll_BS, y_BS)
        loss.backward()
        total = float(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), CONFIG.clip)
        optimizer.step()
        optimizer.zero_grad()
        sights.step()
        return total

    return step


def main() -> None:
    options = arguments(__doc__ or "", RESULT, rounds=15)
    ours = {f"{head} {kind}": our_step(head, kind) for head in ("softmax", "hebbian") for kind in ("fp32", "bf16")}
    seconds = paired({"example": example_step()} | ours, options.rounds)
    found = {
        "sizes": {"V": V, "D": D, "tokens": B * S, "bias": CONFIG.bias, "rounds": options.rounds},
        "times_as_fast_as_the_example": {name: ratios(seconds, "example", name) for name in ours},
        "best_seconds": {name: min(times) for name, times in seconds.items()},
    }
    print_and_save(options.out, found)


if __name__ == "__main__":
    main()
