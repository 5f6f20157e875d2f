"""Requests to the Hugging Face hub that wait trouble out, and errors that say what to do about the rest."""

import json
import logging
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import httpx
from huggingface_hub import get_hf_file_metadata, get_session, hf_hub_download, hf_hub_url
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    XetError,
)
from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]
from tqdm.auto import tqdm

from pipeline.errors import RequestError

ATTEMPTS = 10
"""Attempts at one request or file; together the waits between them stay below ten minutes, unless the hub asks."""
BASE_WAIT, MAX_WAIT = 2.0, 120.0
"""Seconds before the second attempt, doubled for each that follows, up to the longest."""
LONGEST_ASKED = 3600.0
"""Seconds that the hub can make us wait at once."""
MISMATCHES = 3
"""Times that a file may arrive with the wrong content."""

T = TypeVar("T")


class Refused(Exception):
    """The server answered, but not now."""

    def __init__(self, response: httpx.Response) -> None:
        super().__init__(f"error {response.status_code}")
        self.response = response


class WrongContent(Exception):
    """The content is not what the repository says."""


def _no_bar(name: str, size: int | None) -> "type[tqdm[Any]]":
    """What huggingface_hub tells how much of a file has come, before it writes it: shows nothing, and raises
    `WrongContent` once that is more than `size` bytes."""

    class NoBar(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Xet's own protocol knows where a file ends, and counts what it sends in another way
            self.limit = size if kwargs.pop("name", "").endswith("http_get") else None
            self.received = kwargs.get("initial") or 0
            super().__init__(*args, **{**kwargs, "disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            self.received += n or 0
            if self.limit is not None and self.received > self.limit:
                raise WrongContent(f"{name} does not end at its announced size of {self.limit} bytes")
            return super().update(n)

    return NoBar


def endpoint() -> str | None:
    """huggingface_hub reads the variable when it is imported, which may be too early."""
    return os.environ.get("HF_ENDPOINT", "").rstrip("/") or None


@contextmanager
def _one_attempt() -> Iterator[None]:
    """huggingface_hub without its warnings, and without its own retries of refusals: they ignore Retry-After."""
    me, logger = threading.get_ident(), logging.getLogger("huggingface_hub")

    def refuse(response: httpx.Response) -> None:
        if (response.status_code == 429 or response.status_code >= 500) and threading.get_ident() == me:
            raise Refused(response)

    hooks, level = get_session().event_hooks["response"], logger.level
    hooks.append(refuse)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        hooks.remove(refuse)


def persist(call: Callable[[], T], what: str, repo: str, revision: str, remedy: str = "unset it") -> T:
    """The result of `call`, tried again while waiting may help; `what` begins the message of failure."""
    damaged = 0
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with _one_attempt():
                return call()
        except WrongContent as error:
            damaged += 1
            if damaged == MISMATCHES:
                raise OSError(f"{error} ({damaged} times)") from None
            trouble: Exception = error
        except OfflineModeIsEnabled:
            raise RequestError(f"{what}: HF_HUB_OFFLINE is set: {remedy}") from None
        except (httpx.HTTPError, Refused, OSError, RuntimeError, XetError, ValueError) as error:
            _raise_if_final(error, what, repo, revision)
            trouble = error
        if attempt < ATTEMPTS:
            _wait(trouble, attempt)
    raise OSError(f"{what}: gave up after {ATTEMPTS} attempts, the last: {_cause(trouble)}") from trouble


def _raise_if_final(error: Exception, what: str, repo: str, revision: str) -> None:
    """Raise what the user should see if another attempt would end like this one."""

    def refuse(why: str) -> NoReturn:
        raise RequestError(f"{what}: {why}") from None

    login = "log in with `hf auth login` or set HF_TOKEN"
    if isinstance(error, RequestError):
        raise error
    if isinstance(error, HFValidationError):
        refuse(_cause(error))
    if isinstance(error, HfHubHTTPError):
        status, url = error.response.status_code, error.response.request.url
        if "/resolve/" not in url.path and "/api/" not in url.path:
            return  # a content server's: its links expire
        if isinstance(error, GatedRepoError):
            refuse(f"it is gated: accept its conditions at {endpoint() or 'https://huggingface.co'} and {login}")
        if isinstance(error, DisabledRepoError):
            refuse("the hub has disabled it")
        if isinstance(error, RevisionNotFoundError):
            refuse(f"it has no revision {revision!r}")
        if isinstance(error, RepositoryNotFoundError):
            refuse(f"there is no such repository, or it is private: check the name {repo}, or {login}")
        if status in (401, 403):
            refuse(f"the hub does not allow it (error {status}): {login}")
        if status == 404:
            refuse(f"it is not there at revision {revision!r}")
        if 400 <= status < 500 and status not in (408, 416, 425):
            refuse(_cause(error))
    elif isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
        raise error  # this machine's: no space, no permission
    elif isinstance(error, ValueError) and not isinstance(error, json.JSONDecodeError):
        raise error


def _wait(trouble: Exception, attempt: int) -> None:
    """Sleep for as long as the server asks, else with exponential back-off; the jitter parts processes that wait."""
    seconds = min(MAX_WAIT, BASE_WAIT * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
    if isinstance(trouble, Refused):
        headers = trouble.response.headers
        asked = headers.get("Retry-After", "")
        if asked.isdecimal():
            seconds = float(asked) + random.uniform(0, BASE_WAIT)
        elif (limit := parse_ratelimit_headers(headers)) and limit.remaining == 0:
            seconds = limit.reset_in_seconds + random.uniform(0, BASE_WAIT)
        seconds = min(seconds, LONGEST_ASKED)
    print(f"hub: {_cause(trouble)}, waiting {seconds:.0f} s", file=sys.stderr, flush=True)
    time.sleep(seconds)


def _cause(trouble: Exception) -> str:
    """One short clause."""
    if isinstance(trouble, Refused) and trouble.response.status_code == 429:
        return "rate limited"
    if isinstance(trouble, httpx.TimeoutException):
        return "timed out"
    if isinstance(trouble, httpx.ConnectError):
        return f"no connection ({trouble})"
    if isinstance(trouble, httpx.TransportError):
        return f"connection cut ({trouble or type(trouble).__name__})"
    if isinstance(trouble, json.JSONDecodeError):
        return "an answer that is not the hub's"
    return str(trouble).strip().partition("\n")[0] or type(trouble).__name__


def download(repo: str, name: str, revision: str, *, repo_type: str, **where: Any) -> Path:
    server = endpoint()
    # One look before: where it fails, hf_hub_download would retry in silence for half a minute.
    url = hf_hub_url(repo, name, repo_type=repo_type, revision=revision, endpoint=server)
    size = get_hf_file_metadata(url, endpoint=server).size
    try:
        path = hf_hub_download(
            repo,
            name,
            repo_type=repo_type,
            revision=revision,
            endpoint=server,
            tqdm_class=_no_bar(f"{name} of {repo}", size),
            **where,
        )
    except LocalEntryNotFoundError as error:  # its name for whatever happened
        raise error.__cause__ or error from None
    return Path(path)
