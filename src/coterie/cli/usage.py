"""Mistakes in a command itself (its name, options, number of arguments) in one line, as all other mistakes are told."""

from __future__ import annotations

from typing import Any

from coterie.errors import did_you_mean


def is_usage_error(error: Exception) -> bool:
    """Whether typer refused the command line. Known by its method: typer takes click's classes or its own, by version."""
    return callable(getattr(error, "format_message", None))


def usage_message(error: Any) -> str:
    """One line: what is wrong, the nearest right spelling, and where to read on."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "coterie"
    option = getattr(error, "option_name", None)
    if option is not None and hasattr(error, "possibilities"):
        message = f"no such option {option}"
        if "." in option:
            message += f"; settings have no dashes: {option.lstrip('-')}=..."
        elif context is not None:
            message += did_you_mean(option, [name for each in context.command.params for name in each.opts])
    else:
        message = " ".join(error.format_message().split()).rstrip(".")
        message = (message[:1].lower() + message[1:]).replace(". Did you", "; did you")
    return f"{message}; see `{command} --help`"
