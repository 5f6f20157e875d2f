"""The command line's parsers."""

import argparse
from typing import NoReturn

from pipeline.errors import RequestError


class RequestParser(argparse.ArgumentParser):
    """A parser of the verbs that take no run settings; its complaints are `RequestError`."""

    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{self.prog}: {message} (see {self.prog} --help)")
