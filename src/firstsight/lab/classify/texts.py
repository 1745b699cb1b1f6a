"""Texts to vectors: by counting letters on any machine, or by an encoder that somebody has.

Shapes: N texts (T of them train), G sequences of letters, D features.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
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
BLOCK = 2048
"""Texts that are encoded between two files: what a kill can cost."""

Floats = npt.NDArray[np.float32]


def counted(texts: Sequence[str], train: npt.NDArray[np.int64], seed: int = 0) -> Floats:
    """TF-IDF of letter sequences, cut to ``FEATURES`` by a truncated SVD, of unit length: [N, D] float32.

    Sequences of 2 to 4 characters within words, which share the stems of words never seen: on validation rows of ICD-10
    texts and of docstrings the nearest class mean found 66% and 64% of the old classes' rows, 44% and 36% of the new
    ones', against 55% and 61%, 25% and 29% by words and pairs of words; words beside the sequences were no better. Of a
    text the first ``LETTERS`` characters are looked at, so that time and memory are bounded.

    Sequences, their weights and the SVD come from the rows ``train`` alone: nothing is learnt from a text that is asked
    or of a class that comes later. A text that has nothing in common with them is a row of zeros.

    Raises:
        InputError: the training texts hold no letters.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    count = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), min_df=2, sublinear_tf=True, dtype=np.float32)
    say(f"counting the letters of {len(texts):,} texts")
    try:
        train_TG = count.fit_transform([texts[row][:LETTERS] for row in train])
    except ValueError as error:  # an empty vocabulary
        raise InputError(
            f"The texts cannot be counted ({error}). Expected texts of words, or give --encoder."
        ) from error
    D = min(FEATURES, min(train_TG.shape) - 1)
    if D < 1:
        raise InputError(f"The training texts hold {train_TG.shape[1]} sequences of letters. Expected hundreds.")
    svd = TruncatedSVD(D, random_state=seed).fit(train_TG)
    blocks = (texts[start : start + BLOCK] for start in range(0, len(texts), BLOCK))
    h_ND = np.concatenate([svd.transform(count.transform([text[:LETTERS] for text in block])) for block in blocks])
    unit_ND: Floats = normalize(h_ND).astype(np.float32)
    return unit_ND


def encoder_key(encoder: str) -> dict[str, str]:
    """What tells one encoder from another: the name, and of a folder the checksum of its files."""
    folder = Path(encoder)
    if not folder.is_dir():
        return {"name": encoder}
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    listed = [(path.relative_to(folder).as_posix(), sha256(path)) for path in files]
    return {"name": folder.resolve().name, "sha256": hashlib.sha256(json.dumps(listed).encode()).hexdigest()}


def load_encoder(encoder: str) -> Any:
    """A ``SentenceTransformer`` of a folder, or of a name that the Hugging Face hub or its cache knows.

    Raises:
        InputError: the package is missing, or there is no such model, or it is broken.
    """
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


def clear(folder: Path) -> None:
    """Take the blocks away."""
    shutil.rmtree(folder, ignore_errors=True)
