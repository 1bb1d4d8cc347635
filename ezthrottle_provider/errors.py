"""Every error that this library raises by itself, under one root.

::

    EZThrottleError
    └── ConfigError (also a ValueError)    the operator's mistake, told before any request is served

Whatever a caller may want to tell apart is a class; why it happened is in its attributes, never only in its text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["ConfigError", "EZThrottleError", "Problem"]

_BARE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST_NAME = 64


class EZThrottleError(Exception):
    """The root: ``except EZThrottleError`` catches whatever this library raises on purpose."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake (``E...``) or doubt (``W...``) in a config, with the place where it was made.

    ``path`` leads from the root of the document to the value; it is empty for a file as a whole. ``place`` is
    ``"file:line"``, ``"file"``, ``"environment NAME"``, ``"keyword"`` and the like. Neither ``message`` nor ``path``
    holds the value of a secret. What an id means stands in ``config.PROBLEMS``.
    """

    id: str
    path: tuple[str | int, ...]
    place: str
    message: str

    @property
    def key(self) -> str:
        """The path as TOML writes it: ``inbound.tiers.pro.weight``, ``inbound.routes[0].cost``."""
        return "".join(f"[{step}]" if isinstance(step, int) else f".{_quoted(step)}" for step in self.path).lstrip(".")

    def __str__(self) -> str:
        return _one_line(" ".join(part for part in (self.id, self.key, f"({self.place}):", self.message) if part))


class ConfigError(EZThrottleError, ValueError):
    """The config cannot be used; ``problems`` holds every mistake that was found, not only the first."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(map(str, self.problems))


# Names come from files and from the environment, so from anybody: none may end a line or outgrow it.


def _quoted(name: str) -> str:
    if _BARE_NAME.fullmatch(name):
        return name
    short = name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + "..."
    return json.dumps(short, ensure_ascii=not short.isprintable())


def _one_line(text: str) -> str:
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
