"""Work on many files on all cores, with progress, bounded memory, and an end when its starter ends."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from pathlib import Path

from firstsight.errors import InputError
from firstsight.lab.data.shards import Item, make_shard
from firstsight.lab.system.machine import check_processes, cores
from firstsight.lab.system.progress import Bar

_AHEAD = 2  # items handed out a process: enough that none waits, few enough that their bytes fit into memory


def make_shards(folder: Path, items: Iterable[Item], total: int | None, workers: int | None = None) -> list[str]:
    """Make the shards of all items that are not in ``folder`` yet; returns the keys, in the order of the items.

    Args:
        folder: where the shards lie; made where it is missing.
        items: what to work on, drawn as they are needed.
        total: bytes of all items, for the progress bar; ``None`` where that is not known beforehand.
        workers: processes; by default as many as there are cores. The result does not depend on it.
    """
    workers = cores() if workers is None else workers
    check_processes(workers, "processes")
    folder.mkdir(parents=True, exist_ok=True)
    keys: list[str] = []
    bar = Bar(f"tokenise {folder.parent.name}", total, unit="bytes")
    with bar, closing(_run(folder, items, keys, workers)) as finished:
        for done in finished:
            bar.advance(done.size)
    return keys


def _run(folder: Path, items: Iterable[Item], keys: list[str], workers: int) -> Generator[Item, None, None]:
    # Not fork: threads are running here (the bar's). A server that has imported everything once starts workers fast.
    context = multiprocessing.get_context("forkserver" if hasattr(os, "fork") else "spawn")
    if hasattr(os, "fork"):
        context.set_forkserver_preload(["firstsight.lab.data.shards"])
        resource_tracker.ensure_running()  # which lifts the hold on Ctrl-C, so that it must come before
    running: dict[Future[str], Item] = {}
    lifeline, end = context.Pipe(duplex=False)
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(lifeline,))
    try:
        for item in items:
            keys.append(item.key)
            with _held():
                running[executor.submit(make_shard, folder, item)] = item
            if len(running) >= workers * _AHEAD:
                yield from _finished(running)
        while running:
            yield from _finished(running)
    except BrokenProcessPool as error:
        mend = f"with --workers below {workers}" if workers > 1 else "on a machine with more memory"
        raise InputError(
            "a process was killed from outside, most likely for want of memory. What is done is kept: run the same "
            f"command again, {mend}. (In a script of your own, the call must stand under if __name__ == '__main__'.)"
        ) from error
    except BaseException:  # Ctrl-C too: what a process is at would take up to a minute more
        end.close()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


@contextmanager
def _held() -> Iterator[None]:
    """Hold Ctrl-C back for the block, which is no longer than a process takes to start.

    A process begins with what its starter holds back, so none of the pool ever hears Ctrl-C, whose traceback it would
    print while it imports. And a starter that were interrupted halfway would leave one that asks in vain what to do.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _finished(running: dict[Future[str], Item]) -> Iterator[Item]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        future.result()
        yield running.pop(future)


def _start(lifeline: Connection) -> None:
    """In each process: Ctrl-C is for the starter to handle, and when that gives up or is killed, this ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(lifeline,), daemon=True).start()


def _end_with(lifeline: Connection) -> None:
    """The other end of the line is closed by the starter, or by the system when the starter is gone."""
    wait_for([lifeline])
    os._exit(1)
