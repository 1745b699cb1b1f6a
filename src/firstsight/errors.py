"""The one exception for mistakes a user can make and mend."""


class InputError(ValueError):
    """Bad input: the message says what was given, what was expected and how to mend it.

    It is a ``ValueError``, so library users catch what they always catch; the command line turns
    this class, and only this class and ``OSError``, into one paragraph and exit code 2. Any other
    exception is a fault of ours and keeps its traceback.
    """

    exit_code = 2
