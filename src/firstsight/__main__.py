"""``python -m firstsight`` and the ``firstsight`` command."""

import sys


def main() -> int:
    """Run the command line, or say which extra it needs."""
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
    except KeyboardInterrupt:  # while torch was still loading
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
