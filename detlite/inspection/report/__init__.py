"""A page that shows a run's mistakes: numbers, curves, kinds of errors and a gallery, in one HTML file."""

from detlite.inspection.report.content import report_content
from detlite.inspection.report.page import write_page

__all__ = ["report_content", "write_page"]
