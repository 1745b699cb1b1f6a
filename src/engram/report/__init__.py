"""Tables, plots and the HTML page made from run folders."""

from engram.report.html import write_report
from engram.report.tables import comparison_table, markdown_table

__all__ = ["comparison_table", "markdown_table", "write_report"]
