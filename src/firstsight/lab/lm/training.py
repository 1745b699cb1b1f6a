"""The training loop of the language model, in one process or in several that torchrun started.

Shapes: B sequences of a batch, S tokens of a sequence, D width of the head, V vocabulary.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric

from firstsight.heads.steps.sparse import clip_grad_norm_
from firstsight.lab.data import Corpus
from firstsight.lab.lm.batches import Batches, Share
from firstsight.lab.lm.config import Config, save_config
from firstsight.lab.lm.evaluation import Evaluation, evaluate
from firstsight.lab.lm.lstm import LanguageModel
from firstsight.lab.lm.run import WEIGHTS, build_model, build_optimizer, check_corpus, check_folder, checkpoint_path
from firstsight.lab.lm.sampling import DocumentSampler
from firstsight.lab.lm.sights import Sights
from firstsight.lab.lm.state import REASONS, DivergedError, Outcome, TrainState, check_saved, go_on, to_go_on
from firstsight.lab.runs.checkpoint import load_checkpoint, load_weights, save_checkpoint
from firstsight.lab.runs.loggers import Loggers
from firstsight.lab.runs.metrics import append_metrics, cut_metrics
from firstsight.lab.system.devices import AUTO
from firstsight.lab.system.distributed import reach, start
from firstsight.lab.system.folder import RUN, hold
from firstsight.lab.system.interrupt import ending_signals
from firstsight.lab.system.job import peers
from firstsight.lab.system.manifest import identify, identity_of
from firstsight.lab.system.progress import Bar, readable, say
from firstsight.lab.system.ranks import Ranks

# Validation on the way reads the text in parts side by side, because one alone is slow; reported numbers use 1.
VALID_STREAMS = 20
_PRECISION: dict[str, Any] = {"fp32": "32-true", "bf16": "bf16-mixed"}

Watch = Callable[[Mapping[str, Any]], bool]
"""Is given the line of metrics of each validation, and says whether training is to go on."""


def train(
    corpus: Corpus,
    out: str | Path,
    config: Config,
    *,
    resume: bool = False,
    watch: Watch | None = None,
    device: str = AUTO,
    loggers: Sequence[str] = (),
) -> Outcome:
    r"""Train a language model into the folder ``out``.

    SIGINT and SIGTERM end it after the step in hand, with a checkpoint; a second SIGINT ends it at once. Killed it goes
    on, with ``resume``, from the last checkpoint: on a CPU bit for bit as if nothing had happened (times apart).

    In N processes each has its share of every batch, and the step is that of one process,

    .. math:: g = \frac{1}{B S} \sum_r \sum_{t \in r} \nabla \mathrm{nll}_t, \quad g \leftarrow g \min(1, c / |g|),

    so that clip, c, does not depend on N (our decision). Dropout differs from rank to rank; all else is that of one
    process to rounding. Rank 0 writes the files, and a run may go on with another N.

    Args:
        corpus: the data; trained on "train", validated on "valid".
        out: the folder of the run, new, or with ``resume`` an old one (begun afresh if it has no checkpoint yet).
        config: the settings. Of a resumed run only ``run.MAY_CHANGE`` may differ.
        watch: called in rank 0 after each validation; False ends the run, "stopped", with a checkpoint.
        device: where it is trained, as ``find_device`` takes it; a run may go on elsewhere.
        loggers: "csv", "tensorboard": written beside ``metrics.jsonl``, in ``logs/``; a resumed run keeps those it had.

    Raises:
        InputError: ``out`` holds a run already or is held, the settings or the data are not those of the run that is
            resumed, or its files are damaged; there are more processes than sequences in a batch, or they differ.
        DivergedError: the loss or a weight is NaN or infinite; the last good checkpoint is kept.
        PeerLostError: another process is gone; the last checkpoint is kept.
    """
    from firstsight.lab.lm.dry_run.account import check_memory  # its folder needs this file

    out, logs = Path(out), Loggers(Path(out), loggers)
    with peers(), closing(logs), ExitStack() as stack:
        fabric, ranks = start(_PRECISION[config.precision], device)
        with ranks.together():
            if ranks.first:
                stack.enter_context(hold(out, RUN))
            check_folder(out, config, resume)
            trainer = _Trainer(corpus, out, config, fabric, ranks)
            if ranks.size == 1 and fabric.device.type == "cpu":
                check_memory(len(corpus.vocabulary), config)
        trainer.set_up()
        with ranks.together():
            if resume and trainer.last.exists():
                trainer.resume()
        ranks.check_same(settings=config, vocabulary=corpus.vocabulary.hash, step=trainer.state.step)
        with ranks.together():
            if ranks.first:
                _begin(corpus, out, config, trainer.state.step)
                logs.begin()
        with ending_signals() as received, Bar(f"train {out.name}", config.steps, trainer.state.step) as bar:
            return trainer.run(received, bar, logs.beside(watch))


def _begin(corpus: Corpus, out: Path, config: Config, step: int) -> None:
    """The files of a run that starts or goes on at ``step``."""
    if not step:
        corpus.vocabulary.save(out / "vocabulary.json")
    cut_metrics(out / "metrics.jsonl", step)
    save_config(out / "config.yaml", str(corpus.folder.resolve()), config)
    identify(out, corpus.identity or identity_of(out))


def rehearse(corpus: Corpus, config: Config, device: str = AUTO) -> tuple[LanguageModel, Callable[[], float]]:
    """The model of a run that has no folder, and what takes its next step: nothing is written."""
    trainer = _Trainer(corpus, Path(), config, *start(_PRECISION[config.precision], device))
    trainer.set_up()
    trainer.bare.head.attach(trainer.stepped, after=config.write_after)
    return trainer.bare, trainer._train_step


class _Trainer:
    def __init__(self, corpus: Corpus, out: Path, config: Config, fabric: Fabric, ranks: Ranks) -> None:
        self.config, self.corpus, self.fabric, self.ranks = config, corpus, fabric, ranks
        self.metrics = out / "metrics.jsonl"
        self.last, self.best = checkpoint_path(out, "last"), checkpoint_path(out, "best")
        self.share = Share(config.batch, config.accumulate, ranks)
        torch.manual_seed(config.seed)
        vocabulary = corpus.vocabulary
        self.batches = Batches(corpus.split("train"), config.batch, config.length, vocabulary.eos_id)
        self.valid = corpus.split("valid")
        self.sampler = DocumentSampler(corpus, config.test_documents, config.seed) if config.test_documents else None
        model = build_model(len(vocabulary), config)
        if config.bias_start == "unigram":
            model.head.start_bias(torch.from_numpy(vocabulary.counts))
        self.bare, self.stepped = model, build_optimizer(model, config)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.tokens_per_step = config.batch * config.length
        self.state = TrainState()
        self.sights = Sights(len(vocabulary), ranks)

    def set_up(self) -> None:
        """Bring the model to its device; a collective, after which all ranks have the first one's weights."""
        self.model, self.optimizer = self.fabric.setup(self.bare, self.stepped)

    def run(self, received: list[str], bar: Bar, watch: Watch | None) -> Outcome:
        """Train until one of the ends is reached."""
        config, state = self.config, self.state
        self.bare.head.attach(self.stepped, after=max(0, config.write_after - state.step))
        start, before = time.perf_counter(), state.seconds
        began, saved_at, mark = state.step, start, (state.step, start)
        reason = self._end()  # a resumed run may have ended already
        while not reason:
            loss = self._train_step()
            now = time.perf_counter()
            state.seconds = before + now - start
            rate = (state.step - began) * self.tokens_per_step / (now - start)
            stopped = ""
            if state.step % config.eval_every == 0 or state.step == config.steps:
                line = self._validate((state.step - mark[0]) * self.tokens_per_step / (now - mark[1]))
                stopped = "stopped" if watch and self.ranks.first and not watch(line) else ""
                mark = state.step, time.perf_counter()
            valid = "" if math.isnan(state.valid_perplexity) else f"  valid {readable(state.valid_perplexity)}"
            bar.update(state.step, f"{rate:,.0f} tokens/s  loss {loss:.3f}{valid}")
            reason = received[0] if received else self._end() or stopped
            due = config.checkpoint_every and state.step % config.checkpoint_every == 0
            overdue = config.checkpoint_minutes and now - saved_at > 60 * config.checkpoint_minutes
            # Signals and clocks are each rank's own; what follows from them is all ranks'.
            end, save = self.ranks.most(REASONS.index(reason), bool(due or overdue))
            reason = REASONS[end]
            if reason or save:
                self._save(self.last, full=True)
                saved_at = time.perf_counter()
        if not math.isfinite(state.best_loss):  # ended before the first validation: the best is what there is
            self._save(self.best, full=False)
        perplexity = math.exp(state.best_loss) if state.best_loss < 700 else None
        return Outcome(state.step, state.step * self.tokens_per_step, state.seconds, perplexity, reason)

    def _end(self) -> str:
        config, state = self.config, self.state
        if state.step >= config.steps:
            return "steps"
        if config.patience and state.since_best >= config.patience:
            return "patience"
        return "minutes" if config.minutes and state.seconds > 60 * config.minutes else ""

    def _train_step(self) -> float:
        config, state = self.config, self.state
        for group in self.optimizer.param_groups:
            group["lr"] = config.rate_at(state.step)
        input_BS, target_BS, epoch_begins = self.batches(state.step)
        before = None if epoch_begins or not config.pass_state else state.lstm
        total, after = 0.0, []
        self.ranks.seed_others(config.seed, state.step)
        self.sights.show(self.share.others(target_BS))
        input_BS, target_BS = input_BS[self.share.rows], target_BS[self.share.rows]
        for part in self.share.parts:
            inputs, targets = (self.fabric.to_device(x[part]) for x in (input_BS, target_BS))
            lstm = None if before is None else (before[0][:, part], before[1][:, part])
            with self.fabric.no_backward_sync(self.model, enabled=part is not self.share.parts[-1]):
                with self.fabric.autocast():
                    hidden_BSD, lstm = self.model(inputs, lstm)
                    loss, nll_BS = self.bare.head.loss_and_nll(hidden_BSD, targets)
                    loss = loss / self.share.weight(part)  # DDP takes the mean of the ranks' gradients
                    if self.ranks.size > 1:
                        loss = reach(loss, self.trained)
                self.sights.add(nll_BS, targets)
                self.fabric.backward(loss)
            after.append((lstm[0].detach(), lstm[1].detach()))
            total += loss.item()
        total = self.ranks.mean(total)
        if not math.isfinite(total):
            raise self._diverged(f"the loss is {total}")
        if config.clip:
            clip_grad_norm_(self.bare.parameters(), config.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if config.pass_state:
            state.lstm = torch.cat([h for h, _ in after], 1), torch.cat([c for _, c in after], 1)
        self.sights.step()
        state.step, state.loss_sum, state.loss_steps = state.step + 1, state.loss_sum + total, state.loss_steps + 1
        return total

    def _validate(self, speed: float) -> dict[str, Any]:
        config, state, found = self.config, self.state, self._evaluate(self.valid)
        if not math.isfinite(found.nll):
            raise self._diverged(f"the validation loss is {found.nll}")
        state.valid_perplexity = found.perplexity
        improved = found.nll < state.best_loss
        state.best_loss, state.since_best = (found.nll, 0) if improved else (state.best_loss, state.since_best + 1)
        told = found.to_dict()  # an overflow, inf, is no JSON
        line = {
            "step": state.step,
            "tokens": state.step * self.tokens_per_step,
            "seconds": round(state.seconds, 3),
            "train_loss": state.loss_sum / state.loss_steps,
            "valid_loss": found.nll,
            "valid_perplexity": told["perplexity"],
            "valid_streams": found.streams,
            "valid_bands": told["bands"],
            "lr": config.rate_at(state.step - 1),
            "tokens_per_second": round(speed, 1),
            "classes_seen": float((self.sights.seen_V > 0).double().mean()),
            # c starts at 1, so a class is past T once it has been seen T - 1 times.
            "classes_past_T": float((self.sights.seen_V + 1 >= config.T).double().mean()),
            "sights": self.sights.take(),
        }
        if self.sampler:
            line["test_sample"] = self._test(self.sampler)
        if self.ranks.first:
            append_metrics(self.metrics, line)
        state.loss_sum, state.loss_steps = 0.0, 0
        if improved:
            self._save(self.best, full=False)
        trained = readable(math.exp(min(line["train_loss"], 700)))
        perplexities = f"train {trained}  valid {readable(found.perplexity)}"
        say(f"step {state.step:,}  perplexity: {perplexities}{'  (best)' if improved else ''}  {speed:,.0f} tokens/s")
        return line

    def _test(self, sampler: DocumentSampler) -> dict[str, Any]:
        """Watched only: neither the best checkpoint nor the end of training depends on test text."""
        sample = sampler.draw(self.state.step)
        found = self._evaluate(sample.tokens).to_dict()
        return {**sample.about, "streams": found["streams"], "loss": found["nll"], "perplexity": found["perplexity"]}

    def _evaluate(self, tokens: np.ndarray) -> Evaluation:
        known, streams = self.corpus.vocabulary, min(VALID_STREAMS, len(tokens))
        return evaluate(self.bare, tokens, known.counts, eos_id=known.eos_id, streams=streams, ranks=self.ranks)

    def _save(self, path: Path, full: bool) -> None:
        if not all(bool(parameter.isfinite().all()) for parameter in self.bare.parameters()):
            raise self._diverged("a weight is no longer finite")
        state: dict[str, Any] = {"step": self.state.step, "model": self.bare.state_dict()}
        state["vocabulary_hash"] = self.corpus.vocabulary.hash
        if full:
            lstm = self.share.whole(self.state.lstm)
            state |= to_go_on(self.config, self.state, self.optimizer, self.sights, lstm)
        if self.ranks.first:
            save_checkpoint(path, state)

    def resume(self) -> None:
        """Go back to the last checkpoint: weights, optimizer, random state, counters and ``metrics.jsonl``."""
        saved = load_checkpoint(self.last, WEIGHTS)
        check_saved(saved, self.config, self.corpus, self.last)
        check_corpus(self.metrics.parent, self.corpus)
        load_weights(self.bare, saved, self.last)
        self.state = go_on(saved, self.optimizer, self.sights, self.last)
        self.state.lstm = self.fabric.to_device(self.share.of(self.state.lstm))
        over = "" if self.state.step < self.config.steps else ", which was the last: a larger --steps goes on"
        say(f"resumed at step {self.state.step:,}{over}")

    def _diverged(self, what: str) -> DivergedError:
        kept = f"the last good checkpoint, {self.last}, is kept" if self.last.exists() else "no checkpoint exists yet"
        return DivergedError(
            f"training stopped at step {self.state.step + 1:,}: {what}; {kept}. The usual mends: a lower --lr, a "
            f"smaller --clip (it is {self.config.clip}), some --warmup steps, or --precision fp32."
        )
