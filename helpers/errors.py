"""The one error that is meant for the person at the keyboard."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)
FULL = (errno.ENOSPC, errno.EDQUOT)
REASONS = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "you may not write there",
    errno.EPERM: "you may not write there",
    errno.ENOTDIR: "a folder of its path is a file",
    errno.EEXIST: "a folder of its path is a file",
    errno.EISDIR: "it is a folder",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "your share of the disk is used up",
    errno.EFBIG: "the file would be larger than files may be there",
    **dict.fromkeys(NO_LOCKS, "the file system has no locks, without which two writers could "
                              "overwrite each other"),
}

class UserError(ValueError):
    """A mistake in what the course was given: a file, a setting, a number.

    The message is one sentence that says what is wrong, where, and what would be right. The
    command line prints it without a traceback and exits with status 2.
    """


def sentence(error: BaseException) -> str:
    """First line of an error's message, without its final full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def printable(text: str) -> str:
    """A text for a terminal: what would steer it, or turn the line round, is spelt out.

    Line breaks and tabs stay; other control characters, and those that change the direction of
    writing, are shown as Python writes them (an escape as `\\x1b`).
    """
    return re.sub("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]",
                  lambda found: found[0].encode("unicode_escape").decode(), text)


def error_number(error: BaseException) -> int | None:
    """The system's number for what failed, through the errors of libraries that hide it."""
    seen: BaseException | None = error
    while seen is not None:
        for one in (seen, *seen.args):
            if isinstance(one, OSError) and one.errno:
                return one.errno
        found = re.search(r"\(os error (\d+)\)", str(seen))  # as safetensors says it
        if found:
            return int(found[1])
        seen = seen.__cause__
    return None


def no_saving(path: Path, error: BaseException) -> str:
    """Why nothing can be saved at a path, and what to do: a sentence."""
    number = error_number(error)
    reason = REASONS.get(number or 0) or getattr(error, "strerror", None) or sentence(error)
    remedy = "free some space and save again" if number in FULL else \
        "give the path of a file in a folder on a local disk that you may write to"
    return f"{path}: nothing can be saved here, as {reason}; {remedy}."


@contextlib.contextmanager
def saving(path: Path, remedy: str) -> Iterator[None]:
    """Turn what the file system refuses while something is saved at `path` into a UserError.

    remedy: what to do where the disk is not full, as the end of the sentence.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        number = error_number(error)
        if number not in REASONS:
            raise
        what = "free some space, and run again" if number in FULL else remedy
        raise UserError(
            f"{path} cannot be saved, as {REASONS[number]}; {what}.") from error
