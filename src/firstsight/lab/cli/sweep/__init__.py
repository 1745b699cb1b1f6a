"""``firstsight sweep``: search for settings, of the language model or of the memories at test time."""

from typing import Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, subcommand

from firstsight.lab.cli.sweep.lm import LanguageModels, Shown, show_search, sweep_lm
from firstsight.lab.cli.sweep.memory import Memories, show_sweep, sweep_memories

__all__ = ["show_sweep", "sweep"]

Sweeps = (
    Annotated[LanguageModels, subcommand("lm")]
    | Annotated[Shown, subcommand("show")]
    | Annotated[Memories, subcommand("memory")]
)


def sweep(command: OmitSubcommandPrefixes[OmitArgPrefixes[Sweeps]]) -> int:
    """Search for settings: of the language model (lm), or of the memories at test time (memory)."""
    if isinstance(command, LanguageModels):
        return sweep_lm(command)
    if isinstance(command, Shown):
        return show_search(command)
    return sweep_memories(command)
