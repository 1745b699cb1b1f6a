"""Tables, plots and the HTML page made from run folders."""

from firstsight.lab.report.page import write_report
from firstsight.lab.report.tables import comparison_table, markdown_table

__all__ = ["comparison_table", "markdown_table", "write_report"]
