"""The command line."""

from coterie.cli.program import main

__all__ = ["main"]
