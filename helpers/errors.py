"""The one error that is meant for the person at the keyboard."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the course was given: a file, a setting, a number.

    The message is one sentence that says what is wrong, where, and what would be right. The
    command line prints it without a traceback and exits with status 2.
    """


def sentence(error: BaseException) -> str:
    """First line of an error's message, without its final full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
