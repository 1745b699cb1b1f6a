"""``python -m tests.campaign``: attack the lab, and write one table. Ended early, the same command goes on."""

import argparse
import json
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from tests.campaign import tiny

KINDS = ("cases", "kills", "holders", "pairs")


def main() -> int:
    """Run what is left of a campaign; 1 if it found a fault and ``--strict`` was given."""
    asked = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tiny.prepare()
    from firstsight.lab.system.machine import provenance
    from tests.campaign import table

    known = provenance()
    about = {"seed": asked.seed, "commit": known["git_commit"], "machine": known["machine"], "only": asked.only}
    about["quick"] = asked.quick
    progress = asked.out / "progress"
    _begin(progress, about)
    done = _read(progress)
    every = {"cases": asked.cases, "kills": asked.kills, "holders": asked.holders, "pairs": asked.pairs}
    if asked.case is not None:
        every, done = {"cases": asked.case + 1}, {**done, "cases": [{"case": n} for n in range(asked.case)]}
    left = [(kind, n) for kind, number in every.items() for n in range(number) if n not in _numbers(done[kind])]
    began = time.monotonic()
    _run(left, asked, progress, done)
    found = _read(progress)
    minutes = (time.monotonic() - began) / 60 + _earlier(progress, (time.monotonic() - began) / 60)
    if asked.case is not None:
        print(json.dumps([one for one in found["cases"] if one["case"] == asked.case], indent=1, ensure_ascii=False))
        return 0
    for kind, number in every.items():  # of a campaign that was longer before
        found[kind] = [one for one in found[kind] if one.get("case", one.get("number")) < number]
    told = table.summarise({**about, "minutes": round(minutes, 1), "workers": asked.workers}, found)
    table.write(told, asked.out)
    if all(len(found[kind]) == number for kind, number in every.items()):
        shutil.rmtree(progress)
    print(table.markdown(told))
    print(f"{table.faults(told)} faults: {asked.out / 'campaign.json'} tells each")
    return 1 if asked.strict and table.faults(told) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--cases", type=int, default=300, help="damaged files")
    parser.add_argument("--kills", type=int, default=0, help="commands ended at any moment, and run again")
    parser.add_argument("--holders", type=int, default=0, help="commands killed, with the next one coming at once")
    parser.add_argument("--pairs", type=int, default=0, help="two commands on one folder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--only", default="*", help="of commands whose name fits this pattern")
    parser.add_argument("--quick", action="store_true", help="leave out what takes longest")
    parser.add_argument("--case", type=int, help="run this case alone, and tell what became of it")
    parser.add_argument("--out", type=Path, default=Path("runs/campaign"))
    parser.add_argument("--strict", action="store_true", help="exit code 1 if there is a fault")
    return parser.parse_args()


def _begin(progress: Path, about: dict[str, Any]) -> None:
    """Keep what an earlier attempt did, if it was of the same seed, commit and commands."""
    file = progress / "about.json"
    if file.exists() and json.loads(file.read_text()) == about:
        return
    shutil.rmtree(progress, ignore_errors=True)
    progress.mkdir(parents=True)
    file.write_text(json.dumps(about))


def _read(progress: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, dict[int, dict[str, Any]]] = {kind: {} for kind in KINDS}
    for path in sorted(progress.glob("*.jsonl")):
        for row in path.read_text(encoding="utf-8").split("\n")[:-1]:  # the last one may be half a line
            kind, one = json.loads(row)
            found[kind][one.get("case", one.get("number"))] = one
    return {kind: [own[n] for n in sorted(own)] for kind, own in found.items()}


def _numbers(done: list[dict[str, Any]]) -> set[int]:
    return {one.get("case", one.get("number")) for one in done}


def _earlier(progress: Path, now: float) -> float:
    """Minutes of earlier attempts; with those of this one they are kept for the next."""
    file = progress / "minutes"
    before = float(file.read_text()) if file.exists() else 0.0
    file.write_text(str(before + now))
    return before


def _run(left: list[tuple[str, int]], asked: argparse.Namespace, progress: Path, done: dict[str, Any]) -> None:
    """Share what is left out to the workers, and say how far they are."""
    base = Path(tempfile.mkdtemp(prefix="campaign-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    taken, began, said = multiprocessing.Value("i", 0), time.monotonic(), 0.0
    workers = set()
    try:
        for number in range(min(asked.workers, len(left))):
            pid = os.fork()
            if not pid:
                _worker(number, left, taken, asked, progress, base)
            workers.add(pid)
        while workers:
            for pid in list(workers):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    workers.remove(pid)
                    if status:
                        raise SystemExit(f"a worker ended with {os.waitstatus_to_exitcode(status)}")
            time.sleep(0.2)
            if time.monotonic() - said > 30:
                said = time.monotonic()
                share = min(taken.value, len(left))
                print(f"{share} of {len(left)} after {(said - began) / 60:.1f} min", file=sys.stderr, flush=True)
    finally:
        for pid in workers:
            os.kill(pid, signal.SIGTERM)
        shutil.rmtree(base, ignore_errors=True)


def _worker(
    number: int, left: list[tuple[str, int]], taken: Any, asked: argparse.Namespace, progress: Path, base: Path
) -> None:
    """Take one after the other, until none is left."""
    from tests.campaign.beds import Beds
    from tests.campaign.cases import Cases
    from tests.campaign.kills import Holders, Kills
    from tests.campaign.pairs import Pairs
    from tests.campaign.server import adopt_orphans

    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        adopt_orphans()
        beds = Beds(base / f"w{number}")
        at_work = {
            "kills": Kills(asked.seed, beds),
            "holders": Holders(asked.seed, beds),
            "pairs": Pairs(asked.seed, beds),
        }
        cases = Cases(asked.seed, beds, asked.only, asked.quick)
        with open(progress / f"{os.getpid()}.jsonl", "a", encoding="utf-8") as file:
            while True:
                with taken.get_lock():
                    at, taken.value = taken.value, taken.value + 1
                if at >= len(left):
                    break
                kind, which = left[at]
                found = cases.run(which).to_dict() if kind == "cases" else at_work[kind].run(which)
                file.write(json.dumps([kind, found], ensure_ascii=True) + "\n")
                file.flush()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
