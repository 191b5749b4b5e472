"""The funnel of a pipeline: what each curation stage took in, let out and dropped, by reason (paper 3.1.1).

Pure functions over the manifests of finished runs; the numbers are those that each stage returned as its metrics.
"""

from collections.abc import Iterable
from typing import TypedDict

from openherd.core.rundir import Run


class FunnelRow(TypedDict):
    """One stage of the funnel; sizes are bytes of text, or of page content before extraction."""

    stage: str
    documents_in: int
    documents_out: int
    bytes_in: int
    bytes_out: int
    dropped: dict[str, dict[str, int]]  # reason to {"documents", "bytes"}


def funnel_rows(runs: Iterable[Run]) -> list[FunnelRow]:
    """One row for each run that counted documents, in the order given; other runs are passed over."""
    rows = []
    for run in runs:
        found = run.metrics
        if FunnelRow.__required_keys__ - {"stage"} <= found.keys():
            row: FunnelRow = {
                "stage": run.manifest["stage"],
                "documents_in": found["documents_in"],
                "documents_out": found["documents_out"],
                "bytes_in": found["bytes_in"],
                "bytes_out": found["bytes_out"],
                "dropped": found["dropped"],
            }
            rows.append(row)
    return rows


def reasons(rows: Iterable[FunnelRow]) -> list[tuple[str, str, int, int]]:
    """(stage, reason, documents, bytes) of all that was dropped, the most documents first within a stage."""
    return [
        (row["stage"], reason, counts["documents"], counts["bytes"])
        for row in rows
        for reason, counts in sorted(row["dropped"].items(), key=lambda item: (-item[1]["documents"], item[0]))
    ]
