"""Where the config comes from: keywords, a framework's settings, the environment, and a file or a mapping.

Each source becomes a ``Layer`` that can name the place of every value it gives. Nothing here knows what a value may be.
"""

from __future__ import annotations

import functools
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ezthrottle_provider.errors import Problem

from .kinds import did_you_mean, shown, sort_of
from .tables import ROOT, KeyPath, Layer, Option, Table

__all__ = ["PREFIX", "key_lines", "read_layers"]

PREFIX: Final = "EZTHROTTLE_"
"""What the names of all our variables of the environment begin with."""

Places = Callable[[KeyPath], str]

_LARGEST_FILE: Final = 8 * 1024 * 1024
_LONGEST_STATEMENT: Final = 200
_POSITION: Final = re.compile(r"\s*\(at line (\d+), column \d+\)")


def read_layers(
    config: object,
    *,
    framework: object,
    environ: Mapping[str, str],
    keywords: Mapping[str, object],
    options: Mapping[str, Option],
    problems: list[Problem],
    doubts: list[Problem],
) -> list[Layer]:
    """All sources, the one that decides first: keywords, framework settings, environment, then file or mapping.

    ``config`` is a path, a mapping or a table; without it the framework's ``config`` or ``EZTHROTTLE_CONFIG`` names
    the file. ``options`` are the keys of the config: they tell which variables of the environment are meant for it.
    """
    settings: dict[str, object] = {}
    if isinstance(framework, Mapping):
        settings.update(framework)
    else:
        problems.append(Problem("E008", (), "framework settings", f"must be a table, got {sort_of(framework)}"))
    named = settings.pop("config", None)
    if config is None:
        config = named if named is not None else environ.get(PREFIX + "CONFIG") or None
    above = [
        Layer(keywords, _always("keyword"), "keyword"),
        Layer(
            _inbound(settings, _always("framework settings"), problems)[0], _always("framework settings"), "framework"
        ),
    ]
    below: list[Layer] = []
    if isinstance(config, Table):
        below.append(Layer(config, _always("config"), "mapping"))
    elif isinstance(config, Mapping):
        below.append(Layer(_inbound(config, _always("mapping"), problems)[0], _always("mapping"), "mapping"))
    elif config is not None:
        below.extend(_file(config, problems))
    return [*above, _environment(environ, options, [*above, *below], problems, doubts), *below]


def _always(place: str) -> Places:
    return lambda path: place


def _inbound(document: Mapping[str, object], place: Places, problems: list[Problem]) -> tuple[object, KeyPath]:
    """The provider's part of a document and the path that leads there: ``[inbound]``, or the whole of a flat one."""
    known = ("inbound", "outbound")
    flat = "inbound" not in document
    strays = [key for key in document if key not in known and (not flat or did_you_mean(key, known))]
    for key in strays:
        step = key if isinstance(key, str) else shown(key)
        message = f"is not a table that is known here{did_you_mean(key, known)}"
        problems.append(Problem("E007", (step,), place((step,)), message))
    if flat:
        return {key: value for key, value in document.items() if key != "outbound" and key not in strays}, ()
    return document["inbound"], ROOT


# The file


def _file(config: object, problems: list[Problem]) -> list[Layer]:
    if not isinstance(config, str | os.PathLike):
        problems.append(Problem("E001", (), "config", f"must be a path or a mapping, got {sort_of(config)}"))
        return []
    name = os.fsdecode(config)
    try:
        with Path(name).open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise ValueError(f"it is larger than {_LARGEST_FILE:,} bytes")
        text = data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problems.append(Problem("E001", (), name, f"cannot be read: {reason}"))
        return []
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        found = _POSITION.search(str(error))
        where = f"{name}:{found[1]}" if found else name
        problems.append(Problem("E002", (), where, f"is not TOML: {_POSITION.sub('', str(error))}"))
        return []
    # A second reading of the text, so only when a place is asked for.
    lines = functools.cache(lambda: key_lines(text))

    def place(path: KeyPath) -> str:
        line = lines().get(path)
        return f"{name}:{line}" if line else name

    tree, prefix = _inbound(document, place, problems)
    return [Layer(tree, lambda path: place((*prefix, *path)), "file")]


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line of every key of a text that ``tomllib`` accepts; a key whose line is in doubt is left out.

    No grammar of our own: statements are cut out by asking ``tomllib``. It refuses every beginning of a statement over
    several lines, so the first lines that it accepts are one whole statement, and what it read names the keys.
    """
    lines: dict[KeyPath, int] = {}
    rows: dict[KeyPath, int] = {}
    table: KeyPath = ()
    start, statement = 1, ""
    for number, line in enumerate(text.split("\n"), 1):
        if not statement:
            start = number
        statement += line + "\n"
        try:
            read = tomllib.loads(statement)
        except ValueError:
            if number - start >= _LONGEST_STATEMENT:  # each line of it is read again with the next
                return lines
            continue
        if statement.lstrip().startswith("["):
            table = _header(read, rows)
            lines.setdefault(table, start)
        elif number == start:
            _note(read, table, start, lines)
        else:
            for key in read:
                lines.setdefault((*table, key), start)
        statement = ""
    return lines


def _header(read: object, rows: dict[KeyPath, int]) -> KeyPath:
    """The path of ``[a.b]`` or ``[[a.b]]``; ``rows`` holds the place of the last row of every list of tables."""
    names: KeyPath = ()
    table: KeyPath = ()
    while isinstance(read, dict) and read:
        key, read = next(iter(read.items()))
        names, table = (*names, key), (*table, key)
        if isinstance(read, list):
            rows[names] = rows.get(names, -1) + 1
            # A row begins anew: lists of tables inside it are other lists.
            for inner in [path for path in rows if path[: len(names)] == names and path != names]:
                del rows[inner]
        if names in rows:
            table = (*table, rows[names])
    return table


def _note(read: object, path: KeyPath, line: int, lines: dict[KeyPath, int]) -> None:
    entries = read.items() if isinstance(read, dict) else enumerate(read) if isinstance(read, list) else ()
    for key, value in entries:
        lines.setdefault((*path, key), line)
        _note(value, (*path, key), line, lines)


# The environment


def _environment(
    environ: Mapping[str, str],
    options: Mapping[str, Option],
    others: Sequence[Layer],
    problems: list[Problem],
    doubts: list[Problem],
) -> Layer:
    """The variables that name a key of the config; an empty one counts as not set.

    Names of tiers and the like are found whatever their case, with ``_`` for what a variable's name cannot hold.
    """
    scalars: dict[str, str] = {}
    tables: dict[str, dict[str, dict[str, str]]] = {}
    variables: dict[KeyPath, str] = {}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(PREFIX) or not text or variable == PREFIX + "CONFIG":
            continue
        key, *rest = variable.removeprefix(PREFIX).lower().split("__")
        spec = options.get(key)
        place = f"environment {variable}"
        if spec is None:
            # Not a mistake: orchestrators set variables for services named ezthrottle, and other parts have theirs.
            if meant := did_you_mean(key, options):
                doubts.append(Problem("W013", (*ROOT, key), place, f"is not a key that is known here{meant}"))
        elif spec.kind.table is None and not rest:
            scalars[key] = text
            variables[key,] = variable
        elif spec.kind.table is not None and not spec.kind.rows and len(rest) > 1:
            name = _known_name("__".join(rest[:-1]), key, others)
            tables.setdefault(key, {}).setdefault(name, {})[rest[-1]] = text
            variables[key, name, rest[-1]] = variable
        else:
            hint = f"; write {PREFIX}{key.upper()}__NAME__KEY" if spec.kind.table and not spec.kind.rows else ""
            problems.append(Problem("E007", (*ROOT, key, *rest), place, f"cannot be given by a variable{hint}"))

    def place_of(path: KeyPath) -> str:
        return f"environment {variables[path]}" if path in variables else "environment"

    return Layer({**scalars, **tables}, place_of, "environment")


def _known_name(name: str, table: str, others: Sequence[Layer]) -> str:
    """The one name in other sources that the variable's spelling fits, else the spelling itself."""
    fitting: set[str] = set()
    for layer in others:
        under = layer.at((table,))
        names = under if isinstance(under, Mapping) else ()
        fitting.update(known for known in names if isinstance(known, str) and _spelt(known) == _spelt(name))
    return fitting.pop() if len(fitting) == 1 else name


def _spelt(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "_", name.lower())
