"""Exports a run's student, or its ensemble, as a folder with a model card. Nothing here trains."""

from coterie.export.run import export_run

__all__ = ["export_run"]
