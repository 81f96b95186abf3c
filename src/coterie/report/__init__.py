"""The report of a run: one HTML file, written from the run folder alone. Nothing here trains or evaluates."""

from coterie.report.page import write_report

__all__ = ["write_report"]
