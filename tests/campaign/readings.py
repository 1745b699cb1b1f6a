"""The cheapest command that reads each kind of file, on the bed where such files lie."""

from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from tests.campaign.beds import GIGAWORD, GUTENBERG, LEARN, TRAIN, TRY

SWEEP = ("--first=40", "--tokens=20", "--two-step-tokens=0")


@dataclass(frozen=True)
class Reading:
    """A command and what it reads.

    Attributes:
        command: as the table calls it.
        bed: the folder it is run in.
        argv: its line.
        reads: patterns of the files that are damaged.
        writes: patterns of what it only writes over.
        own: those of them that come from outside, and say nothing of what they were: changed, they are another input.
        apart: those of them that belong to nothing: another whole one in their place is another input.
        weight: how often it is taken.
        quick: whether it takes well below a second, and its bed little more.
    """

    command: str
    bed: str
    argv: tuple[str, ...]
    reads: tuple[str, ...]
    own: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    weight: float = 1.0
    quick: bool = False

    def targets(self, place: Path) -> list[tuple[str, float]]:
        """The files that it reads, of a bed as it lies there, and how often each is taken."""
        found = sorted(p.relative_to(place).as_posix() for p in place.rglob("*") if p.is_file() and not p.is_symlink())
        read = {name for name in found if any(fnmatch(name, pattern) for pattern in self.reads)}
        written = {name for name in found if any(fnmatch(name, pattern) for pattern in self.writes)}
        weights = dict.fromkeys(written, 0.2) | {name: 0.1 if drawn(name) else 1.0 for name in read}
        return [(name, weights[name]) for name in found if name in weights]

    def is_own(self, name: str, mutation: str) -> bool:
        """Whether a file that was changed so may be another input from outside."""
        replaced = mutation in ("swap", "link elsewhere", "remove")
        return any(fnmatch(name, pattern) for pattern in (*self.own, *(self.apart if replaced else ())))


def drawn(name: str) -> bool:
    """Whether a file is for people: a picture, a page, a log, a lock."""
    return name.endswith((".png", ".svg", ".html", ".log", ".md", "log.txt", ".lock"))


OF_RUN = ("run/config.yaml", "run/vocabulary.json", "run/checkpoints/*")
READINGS = [
    Reading("data info", "text", ("data", "info", "data", "--json"), ("data/*",), weight=4, quick=True),
    Reading("data audit", "text", ("data", "audit", "data", "--json"), ("data/*",), quick=True),
    Reading("data text", "text", ("data", "text", "--from", "corpus.txt", "--out", "data", "--json"), ("corpus.txt",),
            ("corpus.txt",), ("data/*",), quick=True),
    Reading("data text", "text", ("data", "text", "--from", "data-from", "--out", "data", "--json"), ("data-from/*",),
            ("data-from/*",), ("data/*",), quick=True),
    Reading("train", "text", ("train", "data", "--out", "run", *TRAIN, "--json"), ("data/*",), weight=0.6),
    Reading("train --config", "trained",
            ("train", "data", "--out", "new", "--config=run/config.yaml", "--steps=1", "--json"),
            ("run/config.yaml", "data/*"), ("run/config.yaml",), weight=0.5),
    Reading("train --resume", "trained", ("train", "data", "--out", "run", "--resume", "--steps=5", "--json"),
            ("run/*", "data/*"), weight=0.7),
    Reading("train --resume", "broken off", ("train", "data", "--out", "half", "--resume", "--json"), ("half/*",),
            weight=0.7),
    Reading("eval", "trained", ("eval", "run", "--json"), (*OF_RUN, "data/*"), (), ("run/*",), weight=2.5, quick=True),
    Reading("eval", "trained", ("eval", "run", "--checkpoint=last", "--split=test", "--json"), (*OF_RUN, "data/*"), (),
            ("run/*",), weight=2.5),
    Reading("eval --memory", "trained", ("eval", "run", "--memory=cache", "--tuned=run/memory/sweep.json", "--json"),
            ("run/memory/*", *OF_RUN, "data/*"), (), ("run/*",), weight=1.2),
    Reading("eval --memory", "broken off", ("eval", "run", "--memory=cache", "--json"),
            ("run/memory/partial*", "run/memory/partial*", "run/checkpoints/*"), weight=1.2),
    Reading("eval --memory", "trained", ("eval", "run", "--memory=knn", "--store=store", "--json"), ("store/*",),
            weight=0.8),
    Reading("store info", "trained", ("store", "info", "store", "--json"), ("store/*",), weight=1.5, quick=True),
    Reading("score", "trained", ("score", "run", "letter.txt", "--json"), (*OF_RUN, "letter.txt"), ("letter.txt",),
            weight=4, quick=True),
    Reading("report", "trained", ("report", "run", "--json"), ("run/*",), weight=1.0),
    Reading("report", "trained", ("report", "run", "run-b", "--out", "both", "--csv", "--json"),
            ("run/*", "run-b/*"), (), ("both/*",), weight=1.0),
    Reading("adapt", "trained", ("adapt", "run", "--split=test", "--json"), (*OF_RUN, "data/*"), (), ("run/*",),
            weight=1.5, quick=True),
    Reading("adapt", "trained", ("adapt", "run", "--text=letter.txt", "--open", "--json"), (*OF_RUN, "letter.txt"),
            ("letter.txt",), weight=1.5),
    Reading("sweep memory", "broken off", ("sweep", "memory", "run", *SWEEP, "--json"),
            ("run/memory/*.json", *OF_RUN, "data/*"), (), ("run/*",), weight=1.0),
    Reading("sweep lm", "search", ("sweep", "lm", "--grid", "search.yaml", "--out", "out", "--workers=1", "--json"),
            ("search.yaml", "out/*", "data/*"), ("search.yaml",), weight=0.5),
    Reading("sweep show", "search", ("sweep", "show", "out", "--json"), ("out/*",)),
    Reading("study", "study", ("study", "recipe.yaml", "--out", "out", "--workers=1", "--json"),
            ("recipe.yaml", "out/*", "data/*"), ("recipe.yaml",), weight=0.8),
    Reading("study", "study", ("study", "recipe.yaml", "--out", "out", "--dry-run", "--json"),
            ("recipe.yaml", "recipe.yaml", "data/*"), ("recipe.yaml",), weight=0.8),
    Reading("figure", "figures",
            ("figure", "7", "--data", "data", "--out", "out", "--seeds=1", "--workers=1", "--json"),
            ("out/*", "data/*"), weight=0.5),
    Reading("figure", "figures", ("figure", "all", "--out", "out", "--json"), ("out/*.json",), (), ("out/figure*",),
            weight=0.5),
    Reading("try", "trial", ("try", "vectors.npz", "--out", "out", *TRY, "--json"), ("out/*", "vectors.npz"),
            ("vectors.npz",), weight=0.4),
    Reading("try", "trial", ("try", "table.csv", "--out", "of-texts", *TRY, "--json"), ("of-texts/*",), weight=0.4),
    *(Reading("try (reading)", "tables", ("try (reading)", name), (name,), (name,), weight=0.6, quick=True)
      for name in ("vectors.npz", "packed.npz", "table.csv", "table.tsv", "table.jsonl")),
    Reading("data info", "drawings", ("data", "info", "data", "--json"), ("data/*",), quick=True),
    Reading("data omniglot", "drawings",
            ("data", "omniglot", "--from", "archives", "--out", "data", "--size=16", "--json"), ("archives/*",), (),
            ("data/*",), ("archives/*",), weight=1.5, quick=True),
    Reading("omniglot", "drawings", ("omniglot", "--data", "data", "--out", "out", *LEARN, "--json"),
            ("out/*", "data/*"), weight=2, quick=True),
    *(Reading("data wikitext-2", "wikitext", ("data", "wikitext-2", "--from", name, "--out", "data", "--json"), (name,),
              (), ("data/*",), quick=True) for name in ("wikitext.tar.gz", "wikitext.zip")),
    Reading("data gutenberg", "gutenberg", tuple(GUTENBERG), ("mirror.tar.gz",), (), ("data/*",), weight=1.5,
            quick=True),
    Reading("data gutenberg", "gutenberg", (*GUTENBERG[:5], "half", *GUTENBERG[6:]), ("mirror.tar.gz", "half/*")),
    Reading("data gigaword", "gigaword", tuple(GIGAWORD), ("gigaword/*",), (), ("data/*",), ("gigaword/*",),
            weight=1.5, quick=True),
    Reading("data gigaword", "gigaword", (*GIGAWORD[:5], "half", *GIGAWORD[6:]), ("gigaword/*", "half/*"),
            apart=("gigaword/*",)),
    Reading("estimator load", "estimator", ("estimator load", "clf"), ("clf",), apart=("clf",), weight=4, quick=True),
]  # fmt: skip
