"""``firstsight try``: does the layer help on somebody's own labelled data?"""

from firstsight.lab.cli.try_data.command import default_trial, try_command

__all__ = ["default_trial", "try_command"]
