"""Puts the result tables into README.md, from the files in benchmarks/results.

python benchmarks/readme_table.py
"""

import json
from pathlib import Path
from typing import Any

from engram.files import atomic_write
from engram.report import markdown_table
from engram.report.study import markdown

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: made by benchmarks/readme_table.py -->", "<!-- end of results -->"
STUDIES = ("gutenberg-25", "wikitext-2")
DEMO = ("softmax", "centered", "hebbian")


def table() -> str:
    """All tables, from the committed results."""
    results = ROOT / "benchmarks" / "results"
    parts = [markdown(_read(results / "study" / name / "study.json")).strip() for name in STUDIES]
    demo = {name: _read(results / "demo" / f"{name}.json") for name in DEMO}
    parts += ["`make demo`, test perplexity; `hebbian` is the paper's rule:", markdown_table(demo).strip()]
    return "\n\n".join(parts) + "\n"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def with_table(readme: str) -> str:
    """The README with what stands between its two marks made anew."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    text = with_table(path.read_text(encoding="utf-8"))
    with atomic_write(path) as file:
        file.write(text)
