"""Puts the result table into README.md, from the result.json files in benchmarks/results.

python benchmarks/readme_table.py
"""

import json
from pathlib import Path

from engram.files import atomic_write
from engram.report import markdown_table

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: made by benchmarks/readme_table.py -->", "<!-- end of results -->"
TABLES = {
    "wikitext-2": "WikiText-2, validation perplexity after three epochs of the CPU-sized recipe, one seed, by training "
    "frequency of the word:",
    "demo": "`make demo`, test perplexity:",
}


def table() -> str:
    """All tables, from the committed results."""
    parts = []
    for folder, title in TABLES.items():
        files = sorted((ROOT / "benchmarks" / "results" / folder).glob("*.json"), reverse=True)
        results = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in files}
        parts += [title, "", markdown_table(results).strip(), ""]
    return "\n".join(parts)


def with_table(readme: str) -> str:
    """The README with what stands between its two marks made anew."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{table()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    path = ROOT / "README.md"
    text = with_table(path.read_text(encoding="utf-8"))
    with atomic_write(path) as file:
        file.write(text)
