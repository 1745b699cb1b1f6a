"""Commands that write, as they are killed and set on each other: from which bed, into which folder, and once more."""

from dataclasses import dataclass
from pathlib import Path

from tests.campaign.beds import GIGAWORD, GUTENBERG, LEARN, TRAIN, TRY

SWEEP = ("--first=40", "--tokens=20", "--two-step-tokens=0")


@dataclass(frozen=True)
class Line:
    """A command that writes ``folder``; it ``resumes`` with a flag, or runs ``jobs`` in processes of their own."""

    command: str
    bed: str
    argv: tuple[str, ...]
    folder: str
    resumes: bool = False
    jobs: bool = False

    def again(self, place: Path) -> tuple[str, ...]:
        """What a user types once it has ended before its time."""
        begun = self.resumes and (place / self.folder / "config.yaml").exists()
        return (*self.argv, "--resume") if begun else self.argv


JSON = "--json"
LINES = {
    "train": Line("train", "text", ("train", "data", "--out", "new", *TRAIN, "--steps=8", JSON), "new", resumes=True),
    "resume": Line(
        "train --resume", "trained", ("train", "data", "--out", "run", "--resume", "--steps=9", JSON), "run"
    ),
    "text": Line(
        "data text", "text", ("data", "text", "--from", "other-from", "--out", "data", "--min-count=1", JSON), "data"
    ),
    "same text": Line(
        "data text", "text", ("data", "text", "--from", "data-from", "--out", "data", "--min-count=1", JSON), "data"
    ),
    "wikitext": Line(
        "data wikitext-2",
        "wikitext",
        ("data", "wikitext-2", "--from", "wikitext.tar.gz", "--out", "data", JSON),
        "data",
    ),
    "gutenberg": Line("data gutenberg", "gutenberg", tuple(GUTENBERG), "data"),
    "gigaword": Line("data gigaword", "gigaword", tuple(GIGAWORD), "data"),
    "drawings": Line(
        "data omniglot",
        "drawings",
        ("data", "omniglot", "--from", "archives", "--out", "data", "--size=20", JSON),
        "data",
    ),
    "eval": Line("eval", "trained", ("eval", "run", "--split=test", JSON), "run"),
    "memory": Line("eval --memory", "trained", ("eval", "run", "--memory=cache", JSON), "run"),
    "sweep": Line("sweep memory", "trained", ("sweep", "memory", "run", *SWEEP, JSON), "run"),
    "store": Line("store build", "trained", ("store", "build", "run", "--out", "new", JSON), "run"),
    "report": Line("report", "trained", ("report", "run", "--csv", JSON), "run"),
    "adapt": Line("adapt", "trained", ("adapt", "run", "--split=test", JSON), "run"),
    "study": Line("study", "study", ("study", "recipe.yaml", "--out", "new", "--workers=2", JSON), "new", jobs=True),
    "search": Line(
        "sweep lm",
        "search",
        ("sweep", "lm", "--grid", "search.yaml", "--out", "new", "--workers=2", JSON),
        "new",
        jobs=True,
    ),
    "curriculum": Line(
        "omniglot", "drawings", ("omniglot", "--data", "data", "--out", "new", *LEARN, JSON), "new", jobs=True
    ),
    "figure": Line(
        "figure",
        "figures",
        ("figure", "7", "--data", "data", "--out", "new", "--seeds=1", "--workers=2", JSON),
        "new",
        jobs=True,
    ),
    "try": Line("try", "trial", ("try", "vectors.npz", "--out", "new", *TRY, JSON), "new", jobs=True),
}
