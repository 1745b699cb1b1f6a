"""Puts the result tables into README.md and docs/when.md, from the files in benchmarks/results.

python benchmarks/readme_table.py
"""

import json
from pathlib import Path
from typing import Any

from engram.files import atomic_write
from engram.report import markdown_table
from engram.report.study import markdown

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results: made by benchmarks/readme_table.py -->", "<!-- end of results -->"
BEGIN_STUDY, END_STUDY = "<!-- study tables: made by benchmarks/readme_table.py -->", "<!-- end of study tables -->"
STUDIES = ("gutenberg-25", "wikitext-2")
DEMO = ("softmax", "centered", "hebbian")


def studies() -> str:
    """The studies' tables, from the committed results."""
    files = [RESULTS / "study" / name / "study.json" for name in STUDIES]
    return "\n\n".join(markdown(_read(file)).strip() for file in files) + "\n"


def table() -> str:
    """All tables of the README."""
    demo = {name: _read(RESULTS / "demo" / f"{name}.json") for name in DEMO}
    title = "`make demo`, test perplexity; `hebbian` is the paper's rule:"
    return f"{studies()}\n{title}\n\n{markdown_table(demo).strip()}\n"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def with_table(page: str) -> str:
    """A page, README.md or docs/when.md, with what stands between its marks made anew."""
    for begin, end, make in ((BEGIN, END, table), (BEGIN_STUDY, END_STUDY, studies)):
        if begin in page:
            before, rest = page.split(begin)
            page = f"{before}{begin}\n{make()}{end}{rest.split(end)[1]}"
    return page


if __name__ == "__main__":
    for path in (ROOT / "README.md", ROOT / "docs" / "when.md"):
        text = with_table(path.read_text(encoding="utf-8"))
        with atomic_write(path) as file:
            file.write(text)
