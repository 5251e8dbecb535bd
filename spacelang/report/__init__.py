"""The report of a run: one self-contained HTML file, from plain numbers and strings.

    report = from_json(json.loads(text))          # or Report(...) from `spacelang.report.model`
    path = write_report(run_folder, report)       # run_folder/report.html

Inline style and drawings, no scripts, nothing loaded from elsewhere.
"""

from __future__ import annotations

from spacelang.report.model import (
    Candidate,
    Command,
    Data,
    Decision,
    Epoch,
    Network,
    Report,
    Score,
    Stage,
    Value,
)
from spacelang.report.page import REPORT_NAME, page, write_report
from spacelang.report.read import ReportError, from_json, to_json

__all__ = [
    "REPORT_NAME",
    "Candidate",
    "Command",
    "Data",
    "Decision",
    "Epoch",
    "Network",
    "Report",
    "ReportError",
    "Score",
    "Stage",
    "Value",
    "from_json",
    "page",
    "to_json",
    "write_report",
]
