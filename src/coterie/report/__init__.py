"""What a run came to, for people: one HTML file made from a run folder alone. Nothing here trains or evaluates."""

from coterie.report.page import write_report

__all__ = ["write_report"]
