"""A trained language model meets a new word, with and without the write, on seeds of which nothing was chosen.

The models and the language are those of examples/huggingface_trainer.py, whose own seed is another.
"""

import argparse
import itertools
import sys
from pathlib import Path
from typing import Any

from common import save

sys.path.append(str(Path(__file__).resolve().parents[1] / "examples"))
from huggingface_trainer import GPT2, LLAMA, meet  # type: ignore[import-not-found]

from firstsight.lab.system.progress import say


def main() -> int:
    """A line for each model, seed and number of sights; and the means after the first sight."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("new_word.json"), help="JSON file to write")
    parser.add_argument("--seeds", nargs="+", type=int, default=[101, 102, 103, 104, 105])
    told = parser.parse_args()
    lines: list[dict[str, Any]] = []
    for kind, resized, seed in itertools.product((GPT2, LLAMA), (False, True), told.seeds):
        without, with_write = meet(kind, seed, resized)
        for k, (new, old) in with_write.items():
            line = {"new_without": without[k][0], "new": new, "old_without": without[k][1], "old": old}
            place = {"model": kind.model_type, "token": "added" if resized else "unseen", "seed": seed, "sights": k}
            lines.append(place | {name: round(value, 3) for name, value in line.items()})
            say(str(lines[-1]))
    first = {}
    for kind, token in itertools.product(("gpt2", "llama"), ("unseen", "added")):
        own = [line for line in lines if (line["model"], line["token"], line["sights"]) == (kind, token, 1)]
        gains = [round(line["new_without"] - line["new"], 3) for line in own]
        harms = [round(line["old"] - line["old_without"], 3) for line in own]
        first[f"{kind}, token {token}"] = {"new_word_gains": gains, "old_words_lose": harms}
        print(f"{kind}, token {token}: after one sight the new word gains {gains}, the old ones lose {harms}")
    save(told.out, {"lines": lines, "after_one_sight": first})
    return 0


if __name__ == "__main__":
    sys.exit(main())
