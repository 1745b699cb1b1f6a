"""``python -m firstsight`` and the ``firstsight`` command."""

import os
import signal
import sys
from contextlib import suppress

_INTERRUPTED = "firstsight: interrupted"


def main() -> int:
    """Run the command line, or say which extra it needs. Ctrl-C ends it at any moment with a line and the code 130.

    While torch is loading, and again when all is done, an exception would come up in whatever module is being imported
    or ended, where it can turn into another or be printed and dropped: there the process ends at once.
    """
    heeded = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # a shell's job in the background ignores it
    if heeded:
        signal.signal(signal.SIGINT, _end)
    try:
        from firstsight.lab.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("firstsight"):
            raise
        print(
            f"firstsight: the command line needs {error.name}, of the extra lab: pip install '.[lab]' in a checkout",
            file=sys.stderr,
        )
        return 2
    try:
        try:
            if heeded:
                signal.signal(signal.SIGINT, signal.default_int_handler)
            return run()
        finally:
            if heeded:
                signal.signal(signal.SIGINT, _end)
    except KeyboardInterrupt:  # between the parts that handle it themselves
        print(_INTERRUPTED, file=sys.stderr)
        return 130


def _end(*_: object) -> None:
    """The handler of a signal when there is nothing to be tidied up."""
    with suppress(OSError):  # standard error is closed
        os.write(2, f"{_INTERRUPTED}\n".encode())
    os._exit(130)


if __name__ == "__main__":
    sys.exit(main())
