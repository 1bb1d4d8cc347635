"""What one value of the config may be: the words that describe it, its check, and how a text becomes one.

Every check is idempotent: it accepts what it returned before. That is why a config can be built from the attributes
of another one, and why the constructors check everything that ``load`` checks.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import keyword
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Protocol

__all__ = [
    "Kind",
    "Report",
    "boolean",
    "choice",
    "did_you_mean",
    "listing",
    "named",
    "network",
    "number",
    "optional",
    "path_pattern",
    "quota",
    "rows",
    "selector",
    "shown",
    "sort_of",
    "text",
    "token",
]

# A division by less could reach infinity.
_SMALLEST = 1e-6
_LARGEST_QUOTA = 10**15
_LONGEST_LIST = 10_000
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}"  # RFC 9110, section 5.6.2


class Report(Protocol):
    """Where a check tells what is wrong; ``steps`` lead from the value that is checked to the part that is meant."""

    def __call__(self, id: str, message: str, /, *steps: str | int) -> None: ...


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of value. ``check`` returns the typed value, or reports at least once and returns anything.

    ``from_text`` turns a text of the environment into what the check expects of a file; what it cannot turn it leaves
    for the check to refuse. ``indirect``: ``"env:NAME"`` stands for the value of that variable. ``table``: the class
    of the tables that the value holds, each under a name or, with ``rows``, in a list; ``blank`` makes one that
    stands in for a faulty one, so that its name is known and one mistake is not told twice.
    """

    expects: str
    check: Callable[[object, Report], Any]
    from_text: Callable[[str], object] = str
    indirect: bool = False
    table: type[Any] | None = None
    rows: bool = False
    blank: Callable[[], object] | None = None


def shown(value: object) -> str:
    """A value as a message may show it: short, in one line, and never by the ``repr`` of an unknown class."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value)) if abs(value) < 10**18 else "a huge number"
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 60 else value[:60] + "...", ensure_ascii=not value.isprintable())
    return sort_of(value)


def sort_of(value: object) -> str:
    """What sort of thing a value is, where the value itself may be anything, a raw key for example."""
    if isinstance(value, str):
        return "a text"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    return "a function" if callable(value) else f"a value of type {type(value).__name__[:60]}"


def did_you_mean(word: object, words: Iterable[str]) -> str:
    """``'; did you mean "max_wait"?'`` for the nearest of ``words``, or nothing when none is near."""
    near = difflib.get_close_matches(word[:64].lower(), list(words), 1, 0.7) if isinstance(word, str) else []
    return f'; did you mean "{near[0]}"?' if near else ""


def optional(kind: Kind) -> Kind:
    """The kind, or None: what a file says by leaving the key out, and a keyword to undo what a file says."""
    return replace(kind, check=lambda value, report: None if value is None else kind.check(value, report))


def number(*, most: float, above: float | None = None, least: float = 0, whole: bool = False) -> Kind:
    """A finite number, as ``float`` or, when ``whole``, as ``int``; never a bool."""
    expects = f"a {'whole ' if whole else ''}number {f'> {above:g}' if above is not None else f'>= {least:g}'}"

    def check(value: object, report: Report) -> float:
        found = _finite(value, whole=whole)
        if found is None or (found <= above if above is not None else found < least):
            report("E003", f"must be {expects}, got {shown(value)}")
        elif found > most:
            report("E003", f"must be at most {most:,}, got {shown(value)}")
        elif above is not None and found < _SMALLEST:
            report("E003", f"must be at least {_SMALLEST:f}, got {shown(value)}")
        else:
            return int(found) if whole else float(found)
        return 0

    return Kind(expects, check, _number_from_text)


def _finite(value: object, *, whole: bool) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and (whole or not math.isfinite(value)):
        return None
    return value


def _number_from_text(text: str) -> object:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def boolean() -> Kind:
    """True or false; in the environment also 1 and 0."""

    def check(value: object, report: Report) -> bool:
        if not isinstance(value, bool):
            report("E005", f"must be true or false, got {shown(value)}")
        return value is True

    words = {"true": True, "1": True, "false": False, "0": False}
    return Kind("true or false", check, lambda text: words.get(text.strip().lower(), text))


def text(expects: str, pattern: str, *, lower: bool = False, upper: bool = False, path_like: bool = False) -> Kind:
    """A string that the whole pattern matches, in the case that is asked for; ``path_like`` also takes a path."""
    compiled = re.compile(pattern)

    def check(value: object, report: Report) -> str:
        if path_like and isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or not compiled.fullmatch(value):
            report("E004", f"must be {expects}, got {shown(value)}")
            return ""
        return value.lower() if lower else value.upper() if upper else str(value)

    return Kind(expects, check)


def token(expects: str, *, lower: bool = False, upper: bool = False) -> Kind:
    """A name as HTTP has them for headers and methods (RFC 9110, section 5.6.2)."""
    return text(expects, _TOKEN, lower=lower, upper=upper)


def path_pattern() -> Kind:
    """A pattern for the path of a request; ``*`` stands for anything, slashes included."""
    return text('a pattern that starts with "/" or "*"', "[/*][^\x00-\x1f\x7f\ud800-\udfff]{0,1023}")


def choice(*words: str) -> Kind:
    """One of a few words."""
    expects = " or ".join(f'"{word}"' for word in words)

    def check(value: object, report: Report) -> str:
        if value not in words:
            report("E006", f"must be {expects}, got {shown(value)}{did_you_mean(value, words)}")
            return words[0]
        return str(value)

    return Kind(expects, check)


def listing(item: Kind, expects: str) -> Kind:
    """A tuple of items, each once; in the environment separated by commas."""

    def check(value: object, report: Report) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple) or len(value) > _LONGEST_LIST:
            report("E008", f"must be a list of at most {_LONGEST_LIST:,} {expects}, got {sort_of(value)}")
            return ()
        found: dict[Any, None] = {}
        for place, entry in enumerate(value, 1):
            faults: list[str] = []

            def note(
                id: str, message: str, /, *_steps: str | int, place: int = place, faults: list[str] = faults
            ) -> None:
                faults.append(id)
                report(id, f"item {place} {message}")

            typed = item.check(entry, note)
            if not faults:
                found[typed] = None
        return tuple(found)

    return Kind(f"a list of {expects}", check, lambda text: [part.strip() for part in text.split(",") if part.strip()])


def network() -> Kind:
    """An IP address or network, as ``ipaddress`` has them, or "unix": whoever connects through a unix socket."""
    expects = 'an IP address or network, or "unix"'

    def check(value: object, report: Report) -> object:
        if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network) or value == "unix":
            return value
        if isinstance(value, str):
            try:
                return ipaddress.ip_network(value)
            except ValueError:
                pass
            try:
                meant = ipaddress.ip_network(value, strict=False)
                report("E017", f'has bits set outside its mask; did you mean "{meant}"?')
                return None
            except ValueError:
                pass
        report("E017", f"must be {expects}, got {shown(value)}")
        return None

    return Kind(expects, check)


def quota() -> Kind:
    """A number of requests per period in the notation of the ``limits`` package, such as ``1000000/month``."""
    expects = 'a quota such as "1000000/month"'

    def check(value: object, report: Report) -> str:
        # Imported here: it takes longer than all of this library, and most configs have no quota.
        from limits import parse_many

        if isinstance(value, str) and len(value) <= 60:
            try:
                parsed = parse_many(value)
            except ValueError:
                parsed = []
            if len(parsed) == 1 and 1 <= parsed[0].amount <= _LARGEST_QUOTA and parsed[0].multiples <= 1000:
                return str(value)
        report("E018", f"must be {expects}, got {shown(value)}")
        return ""

    return Kind(expects, check)


def selector(*words: str, expects: str, header: bool = False, function: bool = False) -> Kind:
    """One of the words, ``module:function``, when ``header`` also ``header:NAME``, when ``function`` also a callable.

    A reference is only read here, not imported: a config can be checked where the application is not installed.
    """

    def check(value: object, report: Report) -> object:
        if (function and callable(value)) or (isinstance(value, str) and value in words):
            return value
        if isinstance(value, str):
            before, colon, after = value.partition(":")
            if header and before == "header":
                if re.fullmatch(_TOKEN, after):
                    return value.lower()
                report("E006", f"must name one header after the colon, got {shown(value)}")
                return None
            if colon and _dotted(before) and _dotted(after):
                return value
            if colon:
                report("E019", f'must be "module:function" with dotted names, got {shown(value)}')
                return None
            meant = did_you_mean(value, words)
            if not meant and header and re.fullmatch(_TOKEN, value):
                meant = f'; did you mean "header:{value.lower()}"?'
            report("E006", f"must be {expects}, got {shown(value)}{meant}")
            return None
        report("E006", f"must be {expects}, got {shown(value)}")
        return None

    return Kind(expects, check)


def _dotted(name: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))


def named(table: type[Any], *, blank: Callable[[], object], always: tuple[str, ...] = (), longest: int = 64) -> Kind:
    """Tables under names of the operator's choice; those ``always`` there are added when nobody gave them."""

    def check(value: object, report: Report) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            report("E008", f"must be tables under names, got {sort_of(value)}")
            value = {}
        for name, entry in value.items():
            step = name if isinstance(name, str) else shown(name)
            if name != step or not (0 < len(step) <= longest and step.isprintable() and step.strip() == step):
                report("E021", f"must be a name of 1 to {longest} printable characters", step)
            if not isinstance(entry, table):
                report("E008", f"must be a table, got {sort_of(entry)}", step)
        return MappingProxyType({name: blank() for name in always} | dict(value))

    return Kind("tables under names", check, table=table, blank=blank)


def rows(table: type[Any]) -> Kind:
    """Tables in a list, in the order that counts."""

    def check(value: object, report: Report) -> tuple[Any, ...]:
        if not isinstance(value, list | tuple):
            report("E008", f"must be a list of tables, got {sort_of(value)}")
            return ()
        for place, entry in enumerate(value):
            if not isinstance(entry, table):
                report("E008", f"must be a table, got {sort_of(entry)}", place)
        return tuple(value)

    return Kind("a list of tables", check, table=table, rows=True)
