"""The one error that is the user's to mend."""


class RequestError(ValueError):
    """The request was wrong; the message is one line that says what to change. The command line exits with 2."""


def require(ok: object, message: str) -> None:
    """Raises `RequestError` with the message unless `ok`."""
    if not ok:
        raise RequestError(message)
