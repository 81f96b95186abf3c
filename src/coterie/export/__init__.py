"""A run's student, or its ensemble, as a folder for use elsewhere, with a model card. Nothing here trains."""

from coterie.export.run import export_run

__all__ = ["export_run"]
