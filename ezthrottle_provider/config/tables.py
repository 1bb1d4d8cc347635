"""Tables of the config: classes whose fields say what they accept, and how one is built from several sources.

A field is declared once, as ``name: Annotated[type, kind, documentation] = default``. The constructor checks all
fields and raises one ``ConfigError`` with every mistake; ``build`` collects the values for a constructor from layers
of sources and tells for every mistake where it was made. What ``ezthrottle check`` and the documentation print is
read from the same fields.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Literal, TypeVar, cast, get_type_hints

from ezthrottle_provider.errors import ConfigError, Problem

from .kinds import Kind, did_you_mean, shown, sort_of

__all__ = ["MISSING", "ROOT", "KeyPath", "Layer", "Option", "Table", "build", "options_of", "origin"]

KeyPath = tuple[str | int, ...]
Source = Literal["keyword", "framework", "environment", "file", "mapping"]

ROOT: Final[KeyPath] = ("inbound",)
"""Where the provider's config stands in a whole document; the paths of problems begin with it."""

MISSING: Final = object()
"""What ``Layer.at`` returns where nothing stands; None would be a value."""

AnyTable = TypeVar("AnyTable", bound="Table")


@dataclass(frozen=True, slots=True)
class Option:
    """What is known about one key of a table; ``default`` is None when the key is required."""

    name: str
    kind: Kind
    doc: str
    required: bool
    default: Any


def options_of(table: type[Table]) -> Mapping[str, Option]:
    """All keys of a table, in the order in which they are declared."""
    return _options_of(cast("Hashable", table))


@functools.cache
def _options_of(table: Any) -> Mapping[str, Option]:
    found = {}
    hints = get_type_hints(table, include_extras=True)
    for field in dataclasses.fields(table):
        kind, doc = hints[field.name].__metadata__
        required = field.default is field.default_factory is dataclasses.MISSING
        default = None if field.default is dataclasses.MISSING else field.default
        found[field.name] = Option(field.name, kind, doc, required, default)
    return MappingProxyType(found)


class Table:
    """The base of all tables: frozen dataclasses that are checked, and brought to their types, when they are made.

    Raises ``ConfigError`` with every mistake at once.
    """

    __slots__ = ()

    def __post_init__(self) -> None:
        options = options_of(type(self))
        typed, problems = _checked(options, {name: getattr(self, name) for name in options})
        for name, value in typed.items():
            object.__setattr__(self, name, value)
        faulty = frozenset(str(problem.path[0]) for problem in problems)
        problems.extend(self._contradictions(faulty))
        if problems:
            raise ConfigError(problems)

    def _contradictions(self, faulty: frozenset[str]) -> Iterator[Problem]:
        """What is wrong between fields that are right one by one; ``faulty`` ones hold a stand-in and prove nothing."""
        yield from ()


def _checked(options: Mapping[str, Option], values: Mapping[str, object]) -> tuple[dict[str, object], list[Problem]]:
    """The values in their types, a default in place of every faulty one, and what is wrong with those."""
    typed: dict[str, object] = {}
    problems: list[Problem] = []
    for name, value in values.items():
        spec, before = options[name], len(problems)

        def report(id: str, message: str, /, *steps: str | int, name: str = name) -> None:
            problems.append(Problem(id, (name, *steps), "keyword", message))

        typed[name] = spec.kind.check(value, report)
        if len(problems) > before and spec.kind.table is None:
            typed[name] = spec.default
    return typed, problems


@dataclass(frozen=True, slots=True)
class Layer:
    """One source: a nested mapping (or a table made before), how it names the place of a path, and what kind it is."""

    tree: object
    place: Callable[[KeyPath], str]
    source: Source

    def at(self, path: KeyPath) -> object:
        """What stands at the path, or ``MISSING``; a table that was made before has all its keys."""
        node = self.tree
        for step in path:
            if isinstance(node, Table) and isinstance(step, str):
                node = getattr(node, step, MISSING)
            elif isinstance(node, Mapping):
                node = node.get(step, MISSING)
            elif isinstance(node, list | tuple) and isinstance(step, int) and step < len(node):
                node = node[step]
            else:
                return MISSING
        return node


def origin(layers: Sequence[Layer], path: KeyPath) -> str:
    """The place that decides about a path: the first of the layers that says something about it."""
    return next((layer.place(path) for layer in layers if layer.at(path) is not MISSING), "default")


def build(
    table: type[AnyTable],
    layers: Sequence[Layer],
    environ: Mapping[str, str],
    problems: list[Problem],
    path: KeyPath = (),
) -> AnyTable | None:
    """The table at ``path``, merged from layers: key by key the first one wins.

    When ``problems`` grew, it is a stand-in that keeps what is right, or None: fit for finding more mistakes, no more.
    """
    nodes = [node for layer in layers if (node := layer.at(path)) is not MISSING]
    if len(nodes) == 1 and isinstance(nodes[0], table):
        return nodes[0]  # made before, so checked before
    for layer in layers:
        problems.extend(_shape_problems(table, layer, path))
    if not any(isinstance(node, (Mapping, table)) for node in nodes):
        return None
    options = options_of(table)
    values: dict[str, Any] = {}
    missing = False
    for name, spec in options.items():
        where = (*path, name)
        given = next((layer for layer in layers if layer.at(where) is not MISSING), None)
        if given is None:
            if spec.required:
                missing = True
                problems.append(Problem("E009", (*ROOT, *where), origin(layers, path), f"must be {spec.kind.expects}"))
        elif spec.kind.table is None:
            values[name] = _plain(spec, given, where, environ)
        elif spec.kind.rows:
            values[name] = _rows(spec, given, where, environ, problems)
        else:
            values[name] = _named(spec, layers, where, environ, problems)
    if missing:
        stand_in, found = None, _checked(options, values)[1]
    else:
        try:
            return table(**values)
        except ConfigError as error:
            stand_in, found = _stand_in(table, options, values), list(error.problems)
    for problem in found:
        full = (*path, *problem.path)
        problems.append(dataclasses.replace(problem, path=(*ROOT, *full), place=origin(layers, full)))
    return stand_in


def _stand_in(table: type[AnyTable], options: Mapping[str, Option], values: Mapping[str, object]) -> AnyTable | None:
    try:
        return table(**_checked(options, values)[0])
    except ConfigError:
        return None


def _shape_problems(table: type[Table], layer: Layer, path: KeyPath) -> Iterator[Problem]:
    node = layer.at(path)
    if isinstance(node, Mapping):
        known = options_of(table)
        for key in node:
            if key not in known:
                step = key if isinstance(key, str) else shown(key)
                message = f"is not a key that is known here{did_you_mean(key, known)}"
                yield Problem("E007", (*ROOT, *path, step), layer.place((*path, step)), message)
    elif node is not MISSING and not isinstance(node, table):
        yield Problem("E008", (*ROOT, *path), layer.place(path), f"must be a table, got {sort_of(node)}")


def _plain(spec: Option, layer: Layer, where: KeyPath, environ: Mapping[str, str]) -> object:
    value = layer.at(where)
    if layer.source == "environment" and isinstance(value, str):
        value = spec.kind.from_text(value)
    if spec.kind.indirect and isinstance(value, str) and value.startswith("env:"):
        # A variable that is not set leaves the text as it is, which the kind refuses.
        value = environ.get(value.removeprefix("env:")) or value
    return value


def _rows(spec: Option, layer: Layer, where: KeyPath, environ: Mapping[str, str], problems: list[Problem]) -> object:
    table = cast("type[Table]", spec.kind.table)
    value = layer.at(where)
    if not isinstance(value, list | tuple):
        return value
    made = [build(table, [layer], environ, problems, (*where, place)) for place in range(len(value))]
    return tuple(row for row in made if row is not None)


def _named(
    spec: Option, layers: Sequence[Layer], where: KeyPath, environ: Mapping[str, str], problems: list[Problem]
) -> object:
    table, blank = cast("type[Table]", spec.kind.table), cast("Callable[[], Table]", spec.kind.blank)
    names: dict[Any, None] = {}
    for layer in reversed(layers):
        node = layer.at(where)
        if isinstance(node, Mapping):
            names.update(dict.fromkeys(node))
        elif node is not MISSING:
            message = f"must be {spec.kind.expects}, got {sort_of(node)}"
            problems.append(Problem("E008", (*ROOT, *where), layer.place(where), message))
    made: dict[str, Table] = {}
    for name in names:
        if isinstance(name, str):
            made[name] = build(table, layers, environ, problems, (*where, name)) or blank()
        else:
            message = f"must have texts as names, got {shown(name)}"
            problems.append(Problem("E021", (*ROOT, *where), origin(layers, where), message))
    return made
