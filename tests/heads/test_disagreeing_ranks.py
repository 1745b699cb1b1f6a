"""Processes of a distributed head that do not agree: each says so in seconds. The jobs are in disagreeing_jobs.py."""

import re
import time

import disagreeing_jobs as jobs
import pytest
import torch
import torch.multiprocessing

WITHIN = 10  # seconds in which all ranks have to have ended


def run(folder, ranks, names, last):
    """What each rank found (None: it was killed), what it printed, and the seconds until all had ended."""
    jobs.train(jobs.full(), 1)
    context = torch.multiprocessing.get_context("fork")
    processes = [
        context.Process(target=jobs.work, args=(rank, ranks, str(folder), names, last)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
        if process.is_alive():
            process.kill()
    found = [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]
    return found, [(folder / f"{rank}.txt").read_text() for rank in range(ranks)]


@pytest.mark.parametrize(
    ("ranks", "last"),
    [
        (2, jobs.skips),
        (4, jobs.skips),
        (2, jobs.skips_and_ends),
        (4, jobs.skips_and_ends),
        (2, jobs.is_killed),
        (4, jobs.is_killed),
        (2, jobs.is_slow),
        (4, jobs.is_plain),
        (4, jobs.raises),
    ],
)
def test_try(ranks, last, tmp_path):
    t = time.time()
    found, said = run(tmp_path, ranks, [], last)
    print(ranks, last.__name__, time.time() - t)
    for rank, f in enumerate(found):
        for k, v in f.items():
            if k == "last" or rank in (0, ranks - 1):
                print(rank, k, v["s"], v["kinds"][:2], v["error"])
        print("SAID", said[rank])
