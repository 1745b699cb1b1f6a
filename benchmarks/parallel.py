"""Training in several processes on one machine: the speed, and the bytes of a step.

The demo's model on its corpus, with and without the write, in one process and in several of one thread each. Bytes are
those of the loopback interface while a run trains, of all processes together, so nothing else may use it: the
difference of a run of 60 steps and one of 20, over 40. Run alone on the machine:

    python benchmarks/parallel.py
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import arguments, print_and_save

from firstsight.lab.data import open_corpus, stdlib
from firstsight.lab.lm.lstm import num_parameters
from firstsight.lab.lm.recipes import recipe
from firstsight.lab.lm.run import build_model
from firstsight.lab.lm.training import train
from firstsight.lab.runs.metrics import read_metrics

SHORT, LONG = 20, 60


def received() -> int:
    """Bytes that the loopback interface has received so far."""
    lines = Path("/proc/net/dev").read_text(encoding="ascii").splitlines()
    return next(int(line.split(":")[1].split()[0]) for line in lines if line.strip().startswith("lo:"))


def run(folder: Path, ranks: int, head: str, steps: int) -> tuple[int, float]:
    """Bytes that a run took, and its seconds of training."""
    before, out = received(), folder / f"{ranks}-{head}-{steps}"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    subprocess.run([*command, __file__, "--train", str(folder), str(out), head, str(steps)], check=True)
    return received() - before, read_metrics(out / "metrics.jsonl")[-1]["seconds"]


def main() -> None:
    if sys.argv[1:2] == ["--train"]:
        data, out, head, steps = sys.argv[2:]
        config = recipe("demo").replace(head=head, steps=int(steps), eval_every=int(steps), checkpoint_every=0)
        train(open_corpus(Path(data) / "data"), Path(out), config)
        return
    options = arguments(__doc__ or "", "benchmarks/results/parallel.json", ranks=2)
    config, found = recipe("demo"), dict[str, Any]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = stdlib.prepare(folder / "data")
        for head in ("softmax", "hebbian"):
            for ranks in (1, options.ranks):
                short, long = (run(folder, ranks, head, steps) for steps in (SHORT, LONG))
                per_step = [(b - a) / (LONG - SHORT) for a, b in zip(short, long, strict=True)]
                found[f"{head}, {ranks} processes"] = {
                    "bytes_per_step": round(per_step[0]),
                    "tokens_per_second": round(config.batch * config.length / per_step[1]),
                }
    parameters = num_parameters(build_model(len(corpus.vocabulary), config))
    # A ring sends 2 (N - 1) / N of the buffer from each of N ranks.
    found["gradients"] = {"parameters": parameters, "ring_bytes_per_step": 2 * (options.ranks - 1) * 4 * parameters}
    print_and_save(options.out, found)


if __name__ == "__main__":
    main()
