"""One table of a campaign: what became of the cases, by command and by mutation, and of kills and pairs."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.campaign.verdict import BAD, KINDS

HEAD = ("cases", *KINDS, "left")
GOOD = {"kills": ("same",), "holders": ("same",), "pairs": ("one won",)}


def count(results: Sequence[dict[str, Any]]) -> dict[str, int]:
    """How many cases came to which verdict; ``left``: temporaries and processes left behind."""
    verdicts = Counter(one["verdict"] for one in results)
    return {
        "cases": len(results),
        **{kind: verdicts[kind] for kind in KINDS},
        "left": sum(one["left"] for one in results),
    }


def summarise(about: dict[str, Any], found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The campaign as JSON: its counts, and everything that is not as it should be."""
    cases = found["cases"]
    told: dict[str, Any] = {**about, "total": count(cases)}
    for name in ("command", "mutation"):
        keys = sorted({one[name] for one in cases})
        told[f"by_{name}"] = {key: count([one for one in cases if one[name] == key]) for key in keys}
    for kind, good in GOOD.items():
        by_command: dict[str, dict[str, int]] = {}
        for one in found[kind]:
            own = by_command.setdefault(one["command"], {})
            own[one["verdict"]] = own.get(one["verdict"], 0) + 1
        told[kind] = {"number": len(found[kind]), "by_command": by_command}
        told[kind]["found"] = [one for one in found[kind] if one["verdict"] not in good]
    told["pairs"]["in_turn"] = sum(one["in_turn"] for one in found["pairs"])
    told["found"] = [one for one in cases if one["verdict"] in BAD or one["left"]]
    return told


def faults(told: dict[str, Any]) -> int:
    """How much is not as it should be."""
    return len(told["found"]) + sum(len(told[kind]["found"]) for kind in GOOD)


def markdown(told: dict[str, Any]) -> str:
    """The table for people."""
    rows = [
        f"# Campaign: {told['total']['cases']:,} cases, seed {told['seed']}",
        "",
        f"Commit {told['commit']}, {told['machine']}, {told['minutes']:.1f} minutes with {told['workers']} processes.",
        "",
    ]
    for name in ("command", "mutation"):
        rows += [f"| {name} | {' | '.join(HEAD)} |", f"|---|{'---:|' * len(HEAD)}"]
        rows += [_row(key, own) for key, own in told[f"by_{name}"].items()]
        rows += [_row("**all**", told["total"]), ""]
    for kind, good in GOOD.items():
        if told[kind]["number"]:
            verdicts = sorted({v for own in told[kind]["by_command"].values() for v in own} | set(good))
            rows += [f"| {kind} | number | {' | '.join(verdicts)} |", f"|---|---:|{'---:|' * len(verdicts)}"]
            for key, own in sorted(told[kind]["by_command"].items()):
                rows.append(f"| {key} | {sum(own.values())} | {' | '.join(str(own.get(v, 0)) for v in verdicts)} |")
            rows.append("")
    if in_turn := told["pairs"]["in_turn"]:
        rows += [f"{in_turn} times a pair came one after the other, each whole, and was set off once more.", ""]
    return "\n".join(rows)


def _row(key: str, counts: dict[str, int]) -> str:
    return f"| {key} | {' | '.join(f'{counts[name]:,}' for name in HEAD)} |"


def write(told: dict[str, Any], out: Path) -> None:
    """The table as ``campaign.json`` and ``campaign.md``."""
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("campaign.json", json.dumps(told, indent=1, ensure_ascii=False)),
        ("campaign.md", markdown(told)),
    ):
        (out / f".{name}").write_text(text.rstrip() + "\n", encoding="utf-8")
        os.replace(out / f".{name}", out / name)
