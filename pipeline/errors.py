"""The one error that is the user's to mend, and all errors in a line."""

import re


class RequestError(ValueError):
    """The request was wrong; the message is one line that says what to change. The command line exits with 2."""


def plain_name(text: str) -> bool:
    """Whether a file of that name stays in the folder that it is put into."""
    return bool(re.fullmatch(r"(?!\.+$)[\w.+-]+", text))


def in_a_line(error: BaseException) -> str:
    """What went wrong, for people: a request's message, or what failed of which file, or an error's first line."""
    if isinstance(error, RequestError):
        return str(error)
    if isinstance(error, OSError):
        where = error.filename2 or error.filename  # of a renaming what was to be written
        return f"{error.strerror or error}: {where}" if where else str(error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def require(ok: object, message: str) -> None:
    """Raises `RequestError` with the message unless `ok`."""
    if not ok:
        raise RequestError(message)
