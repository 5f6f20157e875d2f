"""W&B as a service: who is logged in, which mode holds, and a client of a server that answers."""

import netrc
import os
import sys
from typing import Any
from urllib.parse import urlparse

from pipeline.errors import RequestError, in_a_line

CONNECT, FINISH = 10.0, 30.0
"""Seconds that the service may take to answer, and to take what is left at the end."""

_HOSTS = ("api.forge.coreweave.com", "api.wandb.ai")
"""Of W&B's own service, under its newer name and its older one; the client knows logins at both."""


def logged_in() -> bool:
    """Whether W&B would find an API key here: in the environment, or in the netrc file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    base = os.environ.get("WANDB_BASE_URL")
    hosts = [urlparse(base).netloc] if base else _HOSTS
    try:
        known = netrc.netrc(os.environ.get("NETRC"))
        return any(known.authenticators(host) is not None for host in hosts)
    except FileNotFoundError:
        return False
    except (OSError, netrc.NetrcParseError) as error:
        print(f"W&B: the netrc file cannot be read ({error}): nobody counts as logged in", file=sys.stderr)
        return False


def mode_of(asked: str) -> str:
    """``online``, ``offline`` or ``disabled``; `asked` may be ``auto``, which leaves it to WANDB_MODE and the login."""
    if asked != "auto":
        return asked
    return os.environ.get("WANDB_MODE") or ("online" if logged_in() else "disabled")


def connect() -> Any:
    """W&B's client. Asks first whether its server can be reached: the client itself would try for minutes. Raises
    `RequestError`."""
    import requests
    import wandb

    url = wandb.setup().settings.base_url
    try:
        requests.head(url, timeout=CONNECT / 2)
    except requests.RequestException as error:
        raise RequestError(f"W&B at {url} cannot be reached ({type(error).__name__})") from None
    return wandb.Api(timeout=int(CONNECT))


def client_of_wandb() -> Any:
    """W&B's client, of one who is logged in. Raises `RequestError`."""
    if not logged_in():
        raise RequestError("nobody is logged in at W&B here: run `wandb login`, or set WANDB_API_KEY")
    os.environ.setdefault("WANDB_SILENT", "true")  # it would say whose key it has found
    try:
        return connect()
    except RequestError:
        raise
    except Exception as error:  # the client's own, of a key that is refused
        raise RequestError(f"W&B refuses: {in_a_line(error)}") from None
