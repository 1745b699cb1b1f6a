"""Texts to vectors: by counting letters on any machine, or by an encoder that somebody has.

Shapes: N texts (from T of them is learnt), G sequences of letters, D features.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from firstsight.errors import InputError
from firstsight.lab.data.arrays import load_array
from firstsight.lab.system.files import atomic_write, sha256
from firstsight.lab.system.progress import Bar, say

FEATURES = 256
"""D of counted letters, at most."""
LETTERS = 2_000
"""Characters of a text that are counted."""
FITTED = 30_000
"""Training texts, at most, that the sequences and the SVD are learnt from, so that minutes do not become an hour."""
BLOCK = 2048
"""Texts that are encoded between two files: what a kill can cost."""

Floats = npt.NDArray[np.float32]


def counted(texts: Sequence[str], train: npt.NDArray[np.int64], seed: int = 0) -> Floats:
    r"""TF-IDF of letter sequences, cut to ``FEATURES`` by a truncated SVD, of unit length: [N, D] float32.

    Sequences of 2 to 4 characters within words, which share the stems of words never seen. Chosen on validation rows,
    by what the nearest class mean finds of the old classes' rows, and of the new ones' after 5 examples, in percent
    (one split each; no intervals):

    ======================  ==========  ==========  ========================
    \                       ICD-10      docstrings  Gutenberg, by author
    ======================  ==========  ==========  ========================
    words and their pairs   54.9, 24.7  58.3, 20.2  11.7, 2.5
    sequences               65.8, 43.6  60.6, 23.1  16.8, 1.3
    both                    64.1, 36.4  63.4, 24.8  16.1, 1.6
    ======================  ==========  ==========  ========================

    Both are better on docstrings, at twice the time, and worse on the other old classes; sequences alone are simpler.
    Of a text the first ``LETTERS`` characters are looked at, so that time and memory are bounded.

    Sequences, their weights and the SVD come from the rows ``train`` alone: nothing is learnt from a text that is asked
    or of a class that comes later. A text that has nothing in common with them is a row of zeros.

    Raises:
        InputError: the training texts hold no letters.
    """
    say(f"learning vectors from the letters of {min(FITTED, len(train)):,} texts")
    vectors, blocks = learnt([texts[row] for row in train], seed), list[Floats]()
    with Bar("texts to vectors", len(texts)) as bar:
        for start in range(0, len(texts), BLOCK):
            blocks.append(vectors(texts[start : start + BLOCK]))
            bar.advance(len(blocks[-1]))
    return np.concatenate(blocks)


def learnt(texts: Sequence[str], seed: int = 0) -> Callable[[Sequence[str]], Floats]:
    """What makes vectors [N, D] float32 of any N texts, learnt from these; of many, ``FITTED`` evenly spaced ones.

    Raises:
        InputError: the texts hold no letters.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    count = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=2, sublinear_tf=True, dtype=np.float32)
    fitted_T = np.linspace(0, len(texts) - 1, min(FITTED, len(texts))).astype(np.int64)
    try:
        train_TG = count.fit_transform([texts[row][:LETTERS] for row in fitted_T])
    except ValueError as error:  # an empty vocabulary
        raise InputError(
            f"The texts cannot be counted ({error}). Expected texts of words, or give --encoder."
        ) from error
    D = min(FEATURES, min(train_TG.shape) - 1)
    if D < 1:
        raise InputError(f"The training texts hold {train_TG.shape[1]} sequences of letters. Expected hundreds.")
    svd = TruncatedSVD(D, random_state=seed).fit(train_TG)

    def vectors(texts: Sequence[str]) -> Floats:
        h_ND = normalize(svd.transform(count.transform([text[:LETTERS] for text in texts])))
        return np.asarray(h_ND, dtype=np.float32)

    return vectors


def encoder_key(encoder: str) -> dict[str, str]:
    """What tells one encoder from another: the checksum of a folder's files, or the name of what is no folder."""
    folder = Path(encoder)
    if not folder.is_dir():
        return {"name": encoder}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    listed = [(path.relative_to(folder).as_posix(), sha256(path)) for path in files]
    return {"sha256": hashlib.sha256(json.dumps(listed).encode()).hexdigest()}


def load_encoder(encoder: str) -> Any:
    """A ``SentenceTransformer`` of a folder, or of a name that the Hugging Face hub or its cache knows.

    Raises:
        InputError: the package is missing, or there is no such model, or it is broken.
    """
    if not Path(encoder).exists() and (encoder.startswith((".", "/", "~")) or encoder.count("/") > 1):
        raise InputError(
            f"{encoder}: there is no such folder. Expected that of a sentence-transformers model, or a name."
        )
    say(f"loading the encoder {encoder}")
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise InputError(
            f"--encoder needs the package sentence-transformers, which is not to be had here ({error}): pip install "
            "sentence-transformers. Without --encoder, texts become vectors by their letters."
        ) from error
    try:
        return SentenceTransformer(encoder)
    except Exception as error:  # what a stranger's folder or network can raise is not to be listed
        why = " ".join(str(error).split())[:300]
        raise InputError(
            f"{encoder}: this encoder does not load ({type(error).__name__}: {why}). Expected the folder of a "
            "sentence-transformers model, or the name of one that is in the cache or can be downloaded. Without "
            "--encoder, texts become vectors by their letters."
        ) from error


def encode(texts: Sequence[str], model: Any, folder: Path) -> Iterator[Floats]:
    """The vectors block by block, as the encoder gives them; a block that lies in ``folder`` is taken from there.

    Raises:
        InputError: the encoder gives what is not finite, or no vectors.
    """
    with Bar("encoding texts", len(texts)) as bar:
        for start in range(0, len(texts), BLOCK):
            path, block = folder / f"{start:09d}.npz", texts[start : start + BLOCK]
            h_ND = _stored(path, len(block))
            if h_ND is None:
                h_ND = np.asarray(model.encode(list(block), batch_size=64, show_progress_bar=False), dtype=np.float32)
                if h_ND.ndim != 2 or not np.isfinite(h_ND).all():
                    raise InputError(
                        f"The encoder gives {list(h_ND.shape)} for {len(block)} texts, or NaN. Expected a vector of "
                        "finite numbers a text: try it by itself, or take another."
                    )
                with atomic_write(path, "wb") as file:
                    np.savez(file, h=h_ND)
            bar.advance(len(block))
            yield h_ND


def _stored(path: Path, rows: int) -> Floats | None:
    """What an earlier run left of a block, if it is whole."""
    if not path.is_file():
        return None
    try:
        h_ND = load_array(path, "h", "this block of vectors", "It is made anew.")
    except InputError as error:
        say(str(error))
        return None
    return h_ND if h_ND.ndim == 2 and len(h_ND) == rows and h_ND.dtype == np.float32 else None
