"""Which config a command reads: the file that was named, else ``EZTHROTTLE_CONFIG``, else ``ezthrottle.toml`` here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from .terminal import CommandError

if TYPE_CHECKING:
    from ezthrottle_provider.config import InboundConfig

__all__ = ["DEFAULT_FILE", "config_file", "without_secrets"]

DEFAULT_FILE: Final = "ezthrottle.toml"


def config_file(named: str | None) -> str | None:
    """The path of the config, or None when nothing names one and there is none in the current directory."""
    return named or os.environ.get("EZTHROTTLE_CONFIG") or (DEFAULT_FILE if Path(DEFAULT_FILE).exists() else None)


def without_secrets(file: str) -> InboundConfig:
    """The config for a command that needs none of its secrets, where their variables may not be set.

    Raises ``CommandError`` when it has mistakes.
    """
    from ezthrottle_provider.config import load
    from ezthrottle_provider.errors import ConfigError

    try:
        return load(file, secret=None, redis_url=None)
    except ConfigError as error:
        count = len(error.problems)
        mistakes = "a mistake" if count == 1 else f"{count} mistakes"
        raise CommandError(
            f"{file} has {mistakes}, the first is {error.problems[0]}; see: ezthrottle check {file}"
        ) from None
