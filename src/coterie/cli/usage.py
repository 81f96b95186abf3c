"""One-line messages for usage errors: a command's name, options or number of arguments."""

from __future__ import annotations

from typing import Any

from coterie.errors import did_you_mean


def is_usage_error(error: Exception) -> bool:
    """Whether typer refused the command line. Tested by a method, because the error class is click's or typer's own, depending on the version."""
    return callable(getattr(error, "format_message", None))


def usage_message(error: Any) -> str:
    """Returns one line: the error, the nearest known spelling, and the help command."""
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
