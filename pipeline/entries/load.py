"""The loading of what an entry names."""

from importlib import import_module
from typing import Any


def load(name: str) -> Any:
    """The object that ``module:object`` names. Raises `ImportError` or `AttributeError` where there is none."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)
