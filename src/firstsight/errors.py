"""The one exception for mistakes a user can make and mend."""

from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Bad input: the message says what was given, what was expected and how to mend it.

    It is a ``ValueError``, so library users catch what they always catch; the command line turns
    this class, and only this class and ``OSError``, into one paragraph and exit code 2. Any other
    exception is a fault of ours and keeps its traceback.
    """

    exit_code = 2


class BadFlagError(Exception):
    """An InputError about a flag. It is no ``ValueError``, since tyro takes those for its own and words them anew."""


@contextmanager
def checking_flags() -> Iterator[None]:
    """Turn an InputError into a BadFlagError."""
    try:
        yield
    except InputError as error:
        raise BadFlagError(error) from error
