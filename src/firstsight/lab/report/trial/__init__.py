"""The page of ``firstsight try``: its table, its figures, and what is to be pasted."""

from firstsight.lab.report.trial.page import write_trial_report
from firstsight.lab.report.trial.table import trial_rows

__all__ = ["trial_rows", "write_trial_report"]
