"""A CSV file of two gigabytes, read for a trial: seconds, and the memory that it takes at its peak.

The file is made of labels drawn by Zipf's law and texts of random words, and is deleted at the end.
"""

import json
import tempfile
import time
from pathlib import Path

import numpy as np
from common import arguments, in_subprocess, print_and_save

from firstsight.lab.system.files import atomic_write

READ = """
import json, sys, time
from common import resident, start_peak
from firstsight.lab.classify.data.source import read_source
before, start = start_peak(), time.perf_counter()
source = read_source(sys.argv[1])
print(json.dumps({
    "seconds": round(time.perf_counter() - start, 1),
    "peak_mb": round((resident("VmHWM") - before) / 1e6),
    "kept_rows": len(source),
    "rows": source.counts["of_file"],
    "notes": source.notes,
}))
"""


def write_rows(path: Path, megabytes: int) -> None:
    """Rows of about 220 bytes, one in ten with a line break between quotation marks."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(map(chr, rng.integers(97, 123, rng.integers(3, 10)))) for _ in range(5000)])
    with atomic_write(path) as file:
        file.write("text,label\n")
        while file.tell() < megabytes * 1_000_000:
            texts = [" ".join(row) for row in words[rng.integers(0, len(words), (20_000, 30))]]
            labels = np.minimum(rng.zipf(1.3, len(texts)), 50_000)
            file.writelines(
                f'"{text}\nand more",{label}\n' if i % 10 == 0 else f"{text},{label}\n"
                for i, (text, label) in enumerate(zip(texts, labels, strict=True))
            )


def main() -> None:
    options = arguments(__doc__, "benchmarks/results/trial_csv.json", megabytes=2000)
    with tempfile.TemporaryDirectory() as folder:
        path, script = Path(folder, "rows.csv"), Path(folder, "read.py")
        start = time.perf_counter()
        write_rows(path, options.megabytes)
        print(f"written in {time.perf_counter() - start:.0f} s")
        script.write_text(f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n{READ}", encoding="utf-8")
        found = json.loads(in_subprocess(str(script), str(path)))
        print_and_save(options.out, {"megabytes": round(path.stat().st_size / 1e6), **found})


if __name__ == "__main__":
    main()
