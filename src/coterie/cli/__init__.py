"""The command line."""

from coterie.cli.commands import main

__all__ = ["main"]
