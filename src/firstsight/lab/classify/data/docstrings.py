"""Labelled texts that every Python carries: the docstrings of the standard library, the label being the module.

For a trial on a machine with no network. Which docstrings there are, and to which module a file belongs, is decided in
``lab/data/stdlib.py``. Our decisions: a text is one docstring, of a module, class or function, in one line; those of
fewer than three words are left out, and so are those that recur in other blanks or capitals, which would be in training
and in the test.
"""

import hashlib
import platform

from firstsight.lab.classify.data.source import Source
from firstsight.lab.data import stdlib

LEAST_WORDS = 3
_LEAST_ROWS = 3_000  # a whole library has some 9,000


def docstrings() -> Source:
    """The docstrings of the running Python, read from its source files; nothing is imported.

    Raises:
        InputError: this Python comes without the sources of its library, or one of them does not parse.
    """
    root = stdlib.library()
    rows: dict[str, tuple[str, str]] = {}
    found = 0
    for module, docstring in stdlib.docstrings(root):
        words = docstring.split()
        found += 1
        if len(words) >= LEAST_WORDS:
            text = " ".join(words)
            rows.setdefault(text.casefold(), (text, module))
    if len(rows) < _LEAST_ROWS:
        raise stdlib.without_sources(root)
    texts, labels = ([row[i] for row in rows.values()] for i in (0, 1))
    notes = [
        f"{len(texts):,} docstrings of {len(set(labels)):,} modules of Python {platform.python_version()}; "
        f"{found - len(texts):,} of fewer than {LEAST_WORDS} words, or told twice, are left out."
    ]
    checksum = hashlib.sha256("\n".join(f"{label}\t{text}" for text, label in rows.values()).encode()).hexdigest()
    return Source("docstrings", labels, None, texts, None, notes, checksum, False, {"of_file": found})
