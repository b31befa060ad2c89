"""The one error that is meant for the person at the keyboard."""


class UserError(ValueError):
    """A mistake in what the course was given: a file, a setting, a number.

    The message is one sentence that says what is wrong, where, and what would be right. The
    command line prints it without a traceback and exits with status 2.
    """
