"""A datastore of ten million entries on this machine: built, searched exactly and by an index.

- Building block by block: seconds, and anonymous memory above what the process held before (mapped pages, which the
  system takes back when others need them, apart).
- Exact search of the 1,024 nearest of 512 queries, beside the bare products: `torch.mm` of the same tiles, of keys that
  are float32 already. Turn by turn.
- faiss's IVF: seconds to build, and for several numbers of lists looked into seconds a query and the share of the
  exact neighbours that are found.

Keys are drawn around 2,000 centres. Needs 6 GB of disk for the ten million, in the system's place for temporary files:

    python benchmarks/datastore.py
    python benchmarks/datastore.py --entries 200000 --lists 256 --out /tmp/small.json
"""

import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from common import arguments, ratios, save
from torch import Tensor

from firstsight.memory import Datastore, DatastoreWriter
from firstsight.memory.datastore import search

D, K, QUERIES, BLOCK, CENTRES, CLASSES = 128, 1024, 512, 2**16, 2000, 33_278
PROBES = (4, 16, 64)


def resident() -> dict[str, int]:
    """Bytes of anonymous memory, and of mapped pages, that the process holds."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return {name: int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssFile")}


@contextmanager
def measured(row: dict[str, Any], before: Mapping[str, int]) -> Iterator[None]:
    """Note the seconds of a block, and how much memory the process held at its peak above what it held ``before``."""
    peak, done = resident(), threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            for name, value in resident().items():
                peak[name] = max(peak[name], value)

    watching = threading.Thread(target=watch)
    watching.start()
    start, cpu_start = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        row["seconds"] = time.perf_counter() - start
        row["cpu_seconds"] = time.process_time() - cpu_start
        done.set()
        watching.join()
        row["anonymous_bytes"] = peak["RssAnon"] - before["RssAnon"]
        row["mapped_bytes"] = peak["RssFile"] - before["RssFile"]
        print(row, flush=True)


def pairs(entries: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Activations around some centres and labels, a block at a time."""
    centre = torch.randn(CENTRES, D, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, entries, BLOCK):
        n = min(BLOCK, entries - start)
        near = centre[torch.randint(CENTRES, (n,), generator=generator)]
        label = torch.randint(CLASSES, (n,), generator=generator)
        yield near.add_(torch.randn(n, D, generator=generator), alpha=0.7), label


def build(folder: Path, entries: int, before: Mapping[str, int]) -> dict[str, Any]:
    """Write the store."""
    row: dict[str, Any] = {}
    with measured(row, before), DatastoreWriter(folder, D, about={"benchmark": "datastore"}) as writer:
        for hidden, label in pairs(entries, 1):
            writer.append(hidden, label)
    row["bytes_on_disk"] = sum(path.stat().st_size for path in folder.iterdir())
    return row


def exact(store: Datastore, query: Tensor, rounds: int, before: Mapping[str, int]) -> dict[str, Any]:
    """Search, and the same tiles' products alone."""
    tile = search._TILE["cpu"]
    keys, out = torch.randn(tile, D), torch.empty(len(query), tile)

    def products() -> None:
        for _ in range(store.count // tile):
            torch.mm(query, keys.t(), out=out)

    row: dict[str, Any] = {"queries": len(query), "k": K}
    with measured(row, before):
        store.search(query, K)
    variants: dict[str, Callable[[], object]] = {"products": products, "search": lambda: store.search(query, K)}
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    busy: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):  # as ``paired``, without its warm-ups: the search above was one
        for name, variant in variants.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            variant()
            seconds[name].append(time.perf_counter() - start)
            busy[name].append(time.process_time() - cpu_start)
    row["seconds_a_query"] = statistics.median(seconds["search"]) / len(query)
    row["cpu_seconds_a_query"] = statistics.median(busy["search"]) / len(query)
    row["products_over_search"] = ratios(seconds, "products", "search")
    # Of the processor's time, which says the same on a machine that others use too.
    row["products_over_search_cpu"] = ratios(busy, "products", "search")
    print(row, flush=True)
    return row


def approximate(store: Datastore, query: Tensor, lists: int, rounds: int, before: Mapping[str, int]) -> dict[str, Any]:
    """Build the index, and search it with more and more probes."""
    row: dict[str, Any] = {"kind": "ivf", "lists": lists, "k": K, "queries": len(query)}
    with measured(row, before):
        index = store.build_index("ivf", lists=lists, probes=PROBES[0], k=K, query=query[:64])
    exact_QK, row["bytes"] = store.search(query, K)[1], index.bytes
    row["probes"] = []
    for probes in PROBES:
        index.approximation.probes = probes
        seconds, cpu_start = [], time.process_time()
        for _ in range(rounds):
            start = time.perf_counter()
            store.search(query, K, approximate=True)
            seconds.append(time.perf_counter() - start)
        busy = time.process_time() - cpu_start
        found_QK = store.search(query, K, approximate=True)[1]
        found = sum(len(set(a) & set(b)) for a, b in zip(exact_QK.tolist(), found_QK.tolist(), strict=True))
        each = {
            "probes": probes,
            "seconds_a_query": statistics.median(seconds) / len(query),
            "cpu_seconds_a_query": busy / rounds / len(query),
            "recall": found / exact_QK.numel(),
        }
        print(each, flush=True)
        row["probes"].append(each)
    return row


def main() -> None:
    options = arguments(__doc__ or "", "benchmarks/results/datastore.json", entries=10_000_000, lists=1024, rounds=3)
    query = next(pairs(QUERIES, 2))[0]
    with TemporaryDirectory(prefix="firstsight-benchmark-") as room:
        build(Path(room) / "small", 3000, resident())  # what imports and threads take is no matter of the store
        Datastore.open(Path(room) / "small").search(query, 10)
        before, folder = resident(), Path(room) / "s"
        found: dict[str, Any] = {"entries": options.entries, "D": D, "centres": CENTRES}
        found["build"], found["open"] = build(folder, options.entries, before), {}
        with measured(found["open"], before):
            store = Datastore.open(folder)
        found["exact"] = exact(store, query, options.rounds, before)
        found["index"] = approximate(store, query[:128], options.lists, options.rounds, before)
    save(options.out, found)


if __name__ == "__main__":
    main()
