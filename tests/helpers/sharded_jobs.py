"""What the ranks of test_sharded.py do, by name. Each job raises what is wrong."""

import os
import signal
import time
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
from sharded_kept import differing, refused, resumed, saved, states, traffic, wrapped_as_alike
from sharded_runs import Model, optimizer_of, tokens
from sharded_sampling import drawn_apart, sampled, sparse_ddp
from sharded_training import (
    accumulated,
    clipped,
    grown,
    half_precision,
    looked_at,
    newcomers,
    options_of_the_loss,
    overflow,
    trained,
)

RULES = (None, "sight", "centered", "paper")
JOBS = {
    "trained-nobias": lambda *given: trained(*given, rule="sight", bias=False),
    "trained-softmax": lambda *given: trained(*given, rule="centered", objective="softmax"),
    "trained-shrinkage": lambda *given: trained(*given, rule="shrinkage"),
    **{f"grown-{rule}": lambda *given, rule=rule: grown(*given, rule=rule) for rule in RULES},
    "options": options_of_the_loss,
    "half": half_precision,
    "accumulated": accumulated,
    "overflow": overflow,
    "newcomers": newcomers,
    "newcomers-nobias": lambda *given: newcomers(*given, bias=False),
    "newcomers-cap": lambda *given: newcomers(*given, cap=0.2),
    "newcomers-training": lambda *given: newcomers(*given, training=True),
    "looked-at": looked_at,
    "states": states,
    "saved": saved,
    "resumed": resumed,
    "traffic": traffic,
    "refused": refused,
    "differing": differing,
    "clipped": clipped,
    "wrapped": wrapped_as_alike,
    "sampled": sampled,
    "sparse-ddp": sparse_ddp,
    "sampled-sparse": lambda *given: sampled(*given, sparse=True, rule="sight"),
    "drawn": drawn_apart,
}


def work(rank, ranks, folder, names):
    """Run the jobs one after the other, and leave what each raised; the first that fails ends it: ranks come apart."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting{ranks}", rank=rank, world_size=ranks)
    found = {}
    for name in names:
        try:
            JOBS[name](rank, ranks, folder)
            found[name] = ""
        except BaseException:
            found[name] = traceback.format_exc()
            break
    Path(folder, f"{ranks}-{rank}.txt").write_text(repr(found))
    if any(found.values()):
        os._exit(1)
    dist.destroy_process_group()


def is_lost(rank, ranks, folder, how):
    """The last rank is killed, or leaves out a loss, after some steps; what the others find, in how many seconds."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=ranks)
    model = Model(True, "centered")
    optimizer = optimizer_of(model)
    model.head.attach(optimizer)
    start = time.monotonic()
    try:
        for step in range(6):
            if step == 3:
                start = time.monotonic()
            last = rank == ranks - 1 and step == 3
            if last and how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if last and how == "barrier":
                dist.barrier()
            optimizer.zero_grad()
            loss = model(*tokens(step, rank))
            if last and how == "killed in backward":
                loss.register_hook(lambda _: os.kill(os.getpid(), signal.SIGKILL))
            if not (last and how == "skips backward"):
                loss.backward()
            optimizer.step()
        text = "nothing"
    except BaseException as error:
        text = f"{type(error).__name__}: {error}"
    Path(folder, f"{rank}.txt").write_text(f"{time.monotonic() - start}\n{text}")
    os._exit(0)
