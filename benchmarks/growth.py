"""What a class more costs a large head, and one less: ten million classes, with the state of Adagrad.

- Classes added one by one: milliseconds, median, 99th percentile and most (the first, which copies all and makes room);
  and memory at its peak above weights, counts and state, beside the largest tensor's, which is there twice then.
- Classes removed one by one, anywhere, and the last ones: each moves the rows behind it.

On one thread. Ten million need 9 GB:

    python benchmarks/growth.py
    python benchmarks/growth.py --classes 100000 --out /tmp/small.json
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from common import arguments, print_and_save, start_peak

from firstsight import HebbianSoftmax
from firstsight.lab.system.machine import resident

D = 64


def each(calls: Iterable[Callable[[], object]]) -> dict[str, Any]:
    """Milliseconds of these calls, and the memory that they need at their peak above what there was before."""
    before, seconds, busy = start_peak(), [], []
    for call in calls:
        start, cpu_start = time.perf_counter(), time.process_time()
        call()
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - cpu_start)
    return {
        "calls": len(seconds),
        "median_ms": 1e3 * statistics.median(seconds),
        "percentile_99_ms": 1e3 * statistics.quantiles(seconds, n=100)[98],
        "most_ms": 1e3 * max(seconds),
        # Of the processor's time, which says the same on a machine that others use too.
        "cpu_median_ms": 1e3 * statistics.median(busy),
        "cpu_percentile_99_ms": 1e3 * statistics.quantiles(busy, n=100)[98],
        "cpu_most_ms": 1e3 * max(busy),
        "bytes_above": resident("VmHWM") - before,
        "bytes_after": resident("VmRSS") - before,
    }


def main() -> None:
    options = arguments(
        __doc__ or "", "benchmarks/results/growth.json", classes=10_000_000, added=1000, removed=100, threads=1
    )
    torch.set_num_threads(options.threads)
    head = HebbianSoftmax(D, options.classes)
    optimizer = torch.optim.Adagrad(head.parameters(), initial_accumulator_value=0.1)
    head.attach(optimizer)
    of_small = HebbianSoftmax(D, 8)
    of_small.add_classes(1)
    of_small.remove_classes([0])  # what is loaded at the first call is no matter of the head
    held = [*head.parameters(), *head.buffers(), *(state["sum"] for state in optimizer.state.values())]
    found: dict[str, Any] = {"classes": options.classes, "D": D}
    found["bytes_held"] = sum(one.nbytes for one in held)
    found["bytes_of_largest"] = max(one.nbytes for one in held)
    del held
    found["added"] = each(lambda: head.add_classes(1) for _ in range(options.added))
    generator = torch.Generator().manual_seed(0)
    gone = [int(torch.randint(options.classes, (), generator=generator)) for _ in range(options.removed)]
    found["removed"] = each(lambda row=row: head.remove_classes([row]) for row in gone)  # type: ignore[misc]
    found["last_removed"] = each(lambda: head.remove_classes([head.num_classes - 1]) for _ in range(options.removed))
    print_and_save(options.out, found)


if __name__ == "__main__":
    main()
