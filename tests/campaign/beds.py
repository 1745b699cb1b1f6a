"""Small valid folders and files, made once by the commands themselves: what is damaged afterwards.

Every bed is made, and every case run, in a folder of the same name: runs write down where their data lie.
"""

import gzip
import io
import random
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from tests.campaign.server import must

TRAIN = ["--embedding=8", "--hidden=8", "--batch=4", "--length=10", "--lr=0.01", "--dropout=0.2", "--pass-state"]
TRAIN += ["--steps=4", "--eval-every=2", "--checkpoint-every=2"]
BASE = {"embedding": 8, "hidden": 8, "batch": 4, "length": 10, "lr": 0.01, "eval_every": 2, "checkpoint_every": 2}
LEARN = ["--seeds=1", "--workers=1", "--start=3", "--add=2", "--channels=4", "--batch=8", "--check-every=2"]
LEARN += ["--threshold=0.3", "--max-steps=4", "--save-seconds=0.001"]
TRY = ["--seeds=1", "--epochs=1", "--batch=32", "--new-classes=4", "--workers=1"]
GUTENBERG = ["data", "gutenberg", "--from", "mirror.tar.gz", "--out", "data", "--workers=1", "--json"]
GIGAWORD = ["data", "gigaword", "--from", "gigaword", "--out", "data", "--workers=1", "--json"]

Run = Callable[..., str]


def lines(number: int, seed: int, types: int = 60) -> list[str]:
    """Lines of words whose frequencies fall off as in language; every word occurs in the first of them."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(types)]  # as short as those of a language
    weights = [1 / (i + 1) for i in range(types)]
    return [" ".join(words) + "\n"] + [" ".join(rng.choices(words, weights, k=12)) + "\n" for _ in range(number - 1)]


def splits(folder: Path, seed: int) -> Path:
    """A folder of train.txt, valid.txt and test.txt: with any seed the same training text, and so the vocabulary."""
    folder.mkdir()
    for number, name in ((60, "train"), (12, "valid"), (12, "test")):
        (folder / f"{name}.txt").write_text("".join(lines(number, 0 if name == "train" else seed + len(name))))
    return folder


def text(place: Path, run: Run) -> None:
    """A corpus, another one with the same vocabulary, and what they were made from."""
    (place / "corpus.txt").write_text("".join(lines(120, 1)))
    (place / "letter.txt").write_text("".join(lines(3, 9)))
    for name, seed in (("data", 1), ("other", 5)):
        source = splits(place / f"{name}-from", seed)
        run("data", "text", "--from", source.name, "--out", name, "--min-count=1")
    run("data", "audit", "data")


def trained(place: Path, run: Run) -> None:
    """Two runs that were evaluated, one with swept memories, and a corpus beside."""
    text(place, run)
    for name, seed in (("run", 0), ("run-b", 1)):
        run("train", "data", "--out", name, *TRAIN, f"--seed={seed}")
    run("sweep", "memory", "run", "--first=40", "--tokens=20", "--two-step-tokens=4")
    run("eval", "run", "--memory=cache", "--tuned=run/memory/sweep.json")
    run("report", "run", "run-b", "--out", "both")
    run("store", "build", "run", "--out", "store")


def broken_off(place: Path, run: Run) -> None:
    """A run that was ended in the midst of its training, of its sweep and of its evaluation with a memory."""
    text(place, run)
    run("train", "data", "--out", "run", *TRAIN)
    run("sweep", "memory", "run", "--memory=cache")
    shutil.copy(place / "run/memory/sweep.json", place / "swept.json")
    run("eval", "run", "--memory=cache", first=interrupt_reading, code=130)
    run("sweep", "memory", "run", "--first=40", "--tokens=20", first=interrupt_sweep, code=130)
    run("train", "data", "--out", "half", *TRAIN, "--steps=6", first=partial(interrupt_training, 3), code=130)


def interrupt_reading() -> None:
    """Ctrl-C once a memory has read a part of the text."""
    from firstsight.lab.reading import memories

    whole, seen = memories.Recalling.read, []

    def read(self, segment):
        seen.append(segment)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return whole(self, segment)

    memories.Recalling.read = read


def interrupt_sweep() -> None:
    """Ctrl-C in the second part of a sweep."""
    from firstsight.lab.reading import grids

    def grid(*_, **__):
        raise KeyboardInterrupt

    grids.MbPAGrid = grid


def interrupt_training(step: int) -> None:
    """Ctrl-C twice at a step: the last checkpoint is from before it."""
    from firstsight.lab.lm import training

    whole = training._Trainer._train_step

    def train_step(self):
        if self.state.step >= step and self.last.parent.exists():
            raise KeyboardInterrupt
        return whole(self)

    training._Trainer._train_step = train_step


def study(place: Path, run: Run) -> None:
    """A study of two variants."""
    text(place, run)
    settings = "".join(f"  {name}: {value}\n" for name, value in {**BASE, "steps": 4}.items())
    variants = "variants:\n  plain: {head: softmax}\n  hebbian: {head: hebbian}\nbaseline: plain\nseeds: [0, 1]\n"
    (place / "recipe.yaml").write_text(f"data: {{text: data}}\nbase:\n{settings}{variants}")
    run("study", "recipe.yaml", "--out", "out", "--workers=1")


def search(place: Path, run: Run) -> None:
    """A search of two points."""
    text(place, run)
    settings = "".join(f"  {name}: {value}\n" for name, value in {**BASE, "steps": 4}.items())
    (place / "search.yaml").write_text(f"data: data\nbase:\n{settings}grid:\n  hidden: [8, 12]\n")
    run("sweep", "lm", "--grid", "search.yaml", "--out", "out", "--workers=1")


def figures(place: Path, run: Run) -> None:
    """The smallest of the figures with learning curves, and the gallery."""
    text(place, run)
    run("figure", "7", "--data", "data", "--out", "out", "--seeds=1", "--workers=1")
    run("figure", "all", "--out", "out")


def vectors(classes: int = 40, features: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Clouds around a centre for each class, half of them large enough to come later."""
    rng = np.random.default_rng(seed)
    sizes = [18 if c % 2 else 4 + c % 5 for c in range(classes)]
    y = np.repeat(np.arange(classes), sizes)
    centres = rng.normal(size=(classes, features))
    return (centres[y] + 0.3 * rng.normal(size=(len(y), features))).astype(np.float32), y


def tables(place: Path, run: Run) -> None:
    """Labelled examples of every kind of file."""
    h, y = vectors()
    np.savez(place / "vectors.npz", h=h, y=y)
    np.savez_compressed(place / "packed.npz", h=h, y=np.array([f"class {c}" for c in y]))
    rng = random.Random(3)
    rows = [(" ".join(rng.choices([f"w{c}", "the", "of", "a", f"v{c % 7}"], k=6)), f"label {c}") for c in y.tolist()]
    (place / "table.csv").write_text("text,label\n" + "".join(f'"{text}",{label}\n' for text, label in rows))
    (place / "table.tsv").write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    (place / "table.jsonl").write_text("".join(f'{{"text": "{text}", "label": "{label}"}}\n' for text, label in rows))


def trial(place: Path, run: Run) -> None:
    """Two trials that are done, of vectors and of texts."""
    tables(place, run)
    run("try", "vectors.npz", "--out", "out", *TRY)
    run("try", "table.csv", "--out", "of-texts", *TRY)


def drawings(place: Path, run: Run) -> None:
    """Archives of Omniglot, what was made of them, and a curriculum."""
    from omniglot_zips import write_archives

    write_archives(place / "archives")
    run("data", "omniglot", "--from", "archives", "--out", "data", "--size=16")
    run("omniglot", "--data", "data", "--out", "out", *LEARN)


def wikitext(place: Path, run: Run) -> None:
    """WikiText-2 in each of its containers, the numbers of tokens being those that are expected."""
    files = {}
    for name, number, seed in (("train", 70, 0), ("valid", 3, 1), ("test", 3, 2)):
        files[f"wikitext-2/wiki.{name}.tokens"] = "".join(f" {line}" for line in lines(number, seed)).encode()
    with tarfile.open(place / "wikitext.tar.gz", "w:gz") as archive:
        for name, raw in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    with zipfile.ZipFile(place / "wikitext.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
    run("data", "wikitext-2", "--from", "wikitext.zip", "--out", "data")


def books(place: Path) -> Path:
    """A mirror of Project Gutenberg in an archive."""
    from books import make_book

    from firstsight.lab.data.gutenberg.book_ids import TEST, TRAIN, VALID
    from firstsight.lab.data.gutenberg.source import folder_of

    with tarfile.open(place / "mirror.tar.gz", "w:gz") as archive:
        for book in (*VALID[:1], *TEST[:1], *TRAIN[:3]):
            raw = make_book(book, sentences=12)
            member = tarfile.TarInfo(f"{folder_of(book)}/{book}.txt")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return place / "mirror.tar.gz"


def gutenberg(place: Path, run: Run) -> None:
    """Books of a mirror, and a preparation of them that was ended before its pieces were joined."""
    books(place)
    run(*GUTENBERG)
    run(*GUTENBERG[:5], "half", *GUTENBERG[6:], first=interrupt_joining, code=130)


def interrupt_joining() -> None:
    """Ctrl-C once every file is a shard."""
    from firstsight.lab.data.gigaword import articles
    from firstsight.lab.data.gutenberg import books

    def join(*_, **__):
        raise KeyboardInterrupt

    articles.join_shards = books.join_shards = join


def articles(place: Path) -> None:
    """Files of GigaWord, a few articles each."""
    from gigaword_files import make_documents, render

    for name in ("nyt_eng_199912", "xin_eng_200001", "nyt_eng_201001"):
        source, date = name[:7], name[8:]
        ids = [f"{source.upper()}_{date}01.{number:04d}" for number in (1, 2)]
        content = "".join(map(render, make_documents(ids, seed=int(date), paragraphs=2)))
        path = place / "gigaword" / source / f"{name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(content.encode(), mtime=1))


def gigaword(place: Path, run: Run) -> None:
    """Newspaper articles, and a preparation that was ended before its pieces were joined."""
    articles(place)
    run(*GIGAWORD)
    run(*GIGAWORD[:5], "half", *GIGAWORD[6:], first=interrupt_joining, code=130)


def estimator(place: Path, run: Run) -> None:
    """Two classifiers as they are saved."""
    from firstsight.estimator import FirstSightClassifier

    h, y = vectors()
    for name, kept in (("clf", y), ("clf-b", y + 100)):
        found = FirstSightClassifier(random_state=0, least_steps=5).fit(h, kept)
        found.save(place / name)


BEDS: dict[str, Callable[[Path, Run], None]] = {
    "text": text,
    "trained": trained,
    "broken off": broken_off,
    "study": study,
    "search": search,
    "figures": figures,
    "tables": tables,
    "trial": trial,
    "drawings": drawings,
    "wikitext": wikitext,
    "gutenberg": gutenberg,
    "gigaword": gigaword,
    "estimator": estimator,
}


class Beds:
    """All beds of a worker, made when they are first needed, and copied to the one place where cases are run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place, self.log = folder, folder / "case", folder / "log"

    def lay(self, name: str) -> Path:
        """A fresh copy of a bed, at the place."""
        kept = self.folder / "beds" / name.replace(" ", "-")
        if not kept.exists():
            self.clear()
            self.place.mkdir(parents=True)
            BEDS[name](self.place, self._run)
            kept.parent.mkdir(exist_ok=True)
            shutil.copytree(self.place, kept, symlinks=True)
        self.clear()
        shutil.copytree(kept, self.place, symlinks=True)
        return self.place

    def clear(self) -> None:
        """Remove what a case left, whatever it is."""
        shutil.rmtree(self.place, ignore_errors=True)

    def _run(self, *argv: str, **options) -> str:
        return must(argv, self.place, self.log, **options)
