"""The page about a run (`report/`), with personal data replaced in the documents that it shows.

What draws a page knows nothing of documents: what makes pieces of them fit to be looked at is given to it here.
"""

from typing import Any

from openherd.core.rundir import Output, Run
from openherd.data.excerpts import excerpt
from openherd.report.page import ReportConfig, write_report


def report(config: ReportConfig, *, runs: tuple[Run, ...], out: Output) -> dict[str, Any]:
    """Write `report.html` about these runs."""
    return write_report(config, runs, out, excerpt)
