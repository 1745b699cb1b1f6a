"""Two data sets for ``firstsight try``: characters that a frozen convnet sees, and sentences by their authors.

Made of ../shared/data, which is not in the repository, and neither is what comes out:

* ``omniglot.npz``: a convnet learns the 964 characters of Omniglot's background set, and then gives a vector for each
  of the 20 drawings of the 659 characters of the evaluation set, of which it has seen none.
* ``gutenberg.csv``: sentences of Project Gutenberg's books, the label being the author that a book's header names.

Our decisions: books by nobody (Various, Anonymous, ...) are left out; sentences of 8 to 40 words, out of the middle of
each book, where no title page names the author; of each book 4 to 72 of them, a number drawn uniformly, so that some
authors are rare. The convnet is the curriculum's with 96 channels: 96 numbers a drawing.
"""

import argparse
import csv
import re
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from firstsight import Softmax
from firstsight.fitting import fit_head
from firstsight.lab.curriculum.convnet import ConvNet, Network
from firstsight.lab.data import omniglot
from firstsight.lab.data.gutenberg.mirror import open_source
from firstsight.lab.data.gutenberg.robust import robust_text
from firstsight.lab.data.punkt import find_model
from firstsight.lab.system.files import atomic_write
from firstsight.lab.system.progress import Bar, duration, say

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
NOBODY = {"various", "anonymous", "unknown", "u.s. copyright office", "work projects administration"}
LEAST_WORDS, MOST_WORDS = 8, 40
LEAST, MOST = 4, 72  # sentences of a book
MIDDLE = 300_000  # characters of a book that are looked at
_AUTHOR = re.compile(rb"^author: *([^\r\n]+)", re.IGNORECASE | re.MULTILINE)
_SENTENCE = re.compile(r"[A-Z\"'“‘].*[.?!][\"'”’]?")


def characters(source: Path, out: Path, epochs: int) -> None:
    """Write ``omniglot.npz``: h [659 * 20, D] float32, y strings like "Tengwar/character01"."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        drawings = omniglot.prepare(source, folder)
        images, names, known = np.array(drawings.images), drawings.names, drawings.background
    images_NSS = torch.from_numpy(images[:known].reshape(-1, *images.shape[2:]))
    y_N = torch.arange(known).repeat_interleave(images.shape[1])
    body = ConvNet(images.shape[2], Network(channels=96))
    with Bar("convnet, steps", None) as bar:
        fit_head(
            Softmax(body.out_features, known),
            images_NSS,
            y_N,
            rate=1e-3,
            epochs=epochs,
            batch_size=128,
            body=body,
            progress=lambda done, _: bar.update(done),
        )
    new_NSS = torch.from_numpy(images[known:].reshape(-1, *images.shape[2:]))
    h_ND, y = embed(body, new_NSS), np.repeat(names[known:], images.shape[1])
    say(f"of the nearest other drawing, {nearest(h_ND, y):.1%} are of the same character")
    with atomic_write(out / "omniglot.npz", "wb") as file:
        np.savez_compressed(file, h=h_ND.numpy(), y=y)
    say(f"omniglot.npz: {len(h_ND):,} rows, {len(set(y)):,} classes, {h_ND.shape[1]} numbers a row")


@torch.no_grad()
def embed(body: nn.Module, images_NSS: Tensor) -> Tensor:
    """[N, D] float32 in evaluation mode."""
    return torch.cat([body.eval()(block) for block in images_NSS.split(512)])  # type: ignore[no-untyped-call]


def nearest(h_ND: Tensor, y: np.ndarray) -> float:
    """How often the nearest other vector, by cosine, is of the same class."""
    unit_ND = nn.functional.normalize(h_ND)
    similar_NN = (unit_ND @ unit_ND.t()).fill_diagonal_(-1)
    return float((y[similar_NN.argmax(1).numpy()] == y).mean())


def sentences_by_author(source: Path, out: Path) -> None:
    """Write ``gutenberg.csv`` with the columns text, label."""
    import nltk

    find_model()
    rng, rows = np.random.default_rng(0), []
    mirror = open_source(str(source))
    books = mirror.books()
    with Bar("gutenberg, books", len(books)) as bar:
        for found in mirror.read(books):
            bar.advance(1)
            author = author_of(found.raw)
            if author is None:
                continue
            text = robust_text(found.raw)
            text = text[max(0, (len(text) - MIDDLE) // 2) :][:MIDDLE]
            kept = [whole for s in nltk.sent_tokenize(text)[1:-1] if is_prose(whole := " ".join(s.split()))]
            for i in sorted(rng.permutation(len(kept))[: rng.integers(LEAST, MOST + 1)]):
                rows.append((kept[i], author))
    with atomic_write(out / "gutenberg.csv") as file:
        csv.writer(file, lineterminator="\n").writerows([("text", "label"), *rows])
    say(f"gutenberg.csv: {len(rows):,} rows, {len({author for _, author in rows}):,} authors")


def author_of(raw: bytes) -> str | None:
    """Whom the header names; None for nobody, and for books whose header names none."""
    found = _AUTHOR.search(raw[:20_000])
    if found is None:
        return None
    name = " ".join(found[1].decode("utf-8", "replace").replace("\ufffd", "?").split())
    return None if name.lower() in NOBODY else name


def is_prose(sentence: str) -> bool:
    """Of the right length, with a beginning and an end, and hardly any signs or capitals."""
    words = sentence.split()
    small = sum(c.islower() or c == " " for c in sentence)
    right = LEAST_WORDS <= len(words) <= MOST_WORDS and _SENTENCE.fullmatch(sentence) is not None
    return right and small > 0.85 * len(sentence)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/trial-data"), help="folder to write to")
    parser.add_argument("--epochs", type=int, default=8, help="of the convnet")
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder of the real data")
    parser.add_argument("--only", choices=["omniglot", "gutenberg"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    if options.only != "omniglot":
        sentences_by_author(options.shared / "gutenberg" / "mirror-train.tar.xz", options.out)
        say(f"after {duration(time.monotonic() - started)}")
    if options.only != "gutenberg":
        characters(options.shared / "omniglot", options.out, options.epochs)
        say(f"after {duration(time.monotonic() - started)}")


if __name__ == "__main__":
    main()
