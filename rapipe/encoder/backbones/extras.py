"""Packages that only some encoders need, imported when such an encoder is named."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from rapipe.errors import UserError, first_line

EXTRA = "pip install 'rapipe[pretrained]'"


def load_extra(module: str, name: str) -> ModuleType:
    """The module of an optional package, which this encoder or checkpoint needs.

    Raises:
        UserError: it is not installed, or does not load.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise UserError(
            f"{name!r} needs the package {module}, which does not load ({first_line(error)}): "
            f"{EXTRA}"
        ) from None
