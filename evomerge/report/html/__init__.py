"""The HTML report: one file that opens offline and says what a run found, and whether to believe it.

`story.py` reads a run once; each section is a function of that story; `page.py` puts them together.
"""

from evomerge.report.html.page import write_report

__all__ = ["write_report"]
