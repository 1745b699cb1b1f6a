"""``firstsight store``: a datastore of what a model makes of a text, for kNN-LM."""

from typing import Annotated

from tyro.conf import OmitArgPrefixes, OmitSubcommandPrefixes, subcommand

from firstsight.lab.cli.store.commands import Build, Compact, Delete, Info, Join, act

Commands = (
    Annotated[Build, subcommand("build")]
    | Annotated[Info, subcommand("info")]
    | Annotated[Delete, subcommand("delete")]
    | Annotated[Compact, subcommand("compact")]
    | Annotated[Join, subcommand("join")]
)


def store(command: OmitSubcommandPrefixes[OmitArgPrefixes[Commands]]) -> int:
    """A datastore of a trained run, for eval --memory knn: build it, look at it, delete from it."""
    return act(command)
