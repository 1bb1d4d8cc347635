"""``ezthrottle check``: the effective config with the origin of each value, and every mistake and doubt in it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import click

from .configs import DEFAULT_FILE, config_file
from .terminal import Output, counted

if TYPE_CHECKING:
    from ezthrottle_provider.config import Examination, InboundConfig, Setting
    from ezthrottle_provider.errors import Problem

__all__ = ["command", "options_from"]

_REFERENCES: Final = ("identify", "resolve", "cost")
_WIDEST_KEY: Final = 40
_WIDEST_VALUE: Final = 24


@click.command("check", short_help="Every mistake and doubt in a config.")
@click.argument("file", required=False, type=click.Path())
@click.option(
    "--set", "assignments", multiple=True, metavar="KEY=VALUE", help="Set a key as a keyword would; repeatable."
)
@click.option("--all", "show_all", is_flag=True, help="Show the keys that have their defaults, too.")
@click.option("--strict", is_flag=True, help="Doubts fail like mistakes.")
@click.option("--no-import", is_flag=True, help="Do not import the functions that the config names.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option("--explain", metavar="ID", help="Explain the id of a mistake or doubt, such as E012.")
@click.pass_context
def command(
    ctx: click.Context,
    *,
    file: str | None,
    assignments: tuple[str, ...],
    show_all: bool,
    strict: bool,
    no_import: bool,
    as_json: bool,
    explain: str | None,
) -> None:
    """Print the effective config, and every mistake and doubt with its id and place.

    FILE is ezthrottle.toml unless EZTHROTTLE_CONFIG names another. The environment counts as it would for the
    app. Functions that the config names (resolve, cost, identify) are imported from the current directory.

    Exit code: 0 fine, 1 mistakes (with --strict also doubts), 2 the file cannot be read.

    \b
    Examples:
      ezthrottle check
      ezthrottle check ezthrottle.toml --all
      ezthrottle check --set max_wait=5 --set tiers.pro.weight=8
      ezthrottle check --explain W003
    """
    if explain is not None:
        click.echo(_explanation(explain))
        return
    from ezthrottle_provider.config import examine

    source = config_file(file)
    found = examine(source, **options_from(assignments))
    if source is None and found.config is not None and all(it.place == "default" for it in found.settings):
        raise click.UsageError(
            f"there is no {DEFAULT_FILE} here, EZTHROTTLE_CONFIG is not set, and nothing else sets a key: name a file."
        )
    problems = [*map(_as_typed, found.problems)]
    if found.config is not None and not no_import:
        problems.extend(_failed_imports(found.config, found.settings))
    doubts = [*map(_as_typed, found.doubts)]
    if as_json:
        _print_json(source, problems, doubts, found.settings)
    else:
        _print_text(source, problems, doubts, found, show_all=show_all)
    unreadable = any(problem.id == "E001" for problem in problems)
    ctx.exit(2 if unreadable else 1 if problems or (strict and doubts) else 0)


def options_from(assignments: Sequence[str]) -> dict[str, Any]:
    """The keywords that ``KEY=VALUE`` pairs stand for; a value is written as in a variable of the environment.

    Raises ``click.BadParameter`` for a key that cannot be set so, and for a secret: a command line is public.
    """
    from ezthrottle_provider.config import InboundConfig
    from ezthrottle_provider.config.kinds import did_you_mean
    from ezthrottle_provider.config.tables import options_of

    options: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise click.BadParameter("must be KEY=VALUE", param_hint="--set")
        first, *rest = key.strip().removeprefix("inbound.").split(".")
        known = options_of(InboundConfig)
        spec, into = known.get(first), options
        if spec is not None and spec.kind.table is not None:
            if spec.kind.rows or len(rest) < 2:
                wanted = "belongs in a file" if spec.kind.rows else f"must be {first}.NAME.KEY"
                raise click.BadParameter(f"{first} {wanted}", param_hint="--set")
            known = options_of(spec.kind.table)
            into = options.setdefault(first, {}).setdefault(".".join(rest[:-1]), {})
            first, rest = rest[-1], []
            spec = known.get(first)
        if spec is None or rest:
            raise click.BadParameter(f"unknown key {key.strip()}{did_you_mean(first, known)}", param_hint="--set")
        if _is_secret(first, text):
            message = f"the value of {first} is a secret, and others can read a command line: use {first}=env:NAME"
            raise click.BadParameter(message, param_hint="--set")
        into[first] = spec.kind.from_text(text)
    return options


def _is_secret(key: str, text: str) -> bool:
    if text.startswith("env:"):
        return False
    try:
        return key == "secret" or (key == "redis_url" and urlsplit(text).password is not None)
    except ValueError:  # no URL, so it may be anything
        return True


def _explanation(id: str) -> str:
    from ezthrottle_provider.config import PROBLEMS

    text = PROBLEMS.get(id.upper())
    if text is None:
        raise click.BadParameter(
            f"there is no such id; they are {min(PROBLEMS)} to {max(PROBLEMS)}", param_hint="--explain"
        )
    return f"{id.upper()}: {text}"


def _as_typed(problem: Problem) -> Problem:
    return dataclasses.replace(problem, place=_place(problem.place))


def _place(place: str) -> str:
    """The place in the words of whoever typed the command: its keywords come from ``--set``."""
    return "--set" if place == "keyword" else place


# The functions that a config names


def _failed_imports(config: InboundConfig, settings: Sequence[Setting]) -> Iterator[Problem]:
    places = {setting.key: setting.place for setting in settings}
    with _current_directory_first(), contextlib.redirect_stdout(sys.stderr):  # what modules print is not our report
        for key in _REFERENCES:
            reference = getattr(config, key)
            if isinstance(reference, str) and ":" in reference and not reference.startswith("header:"):
                yield from _import_problems(key, reference, places.get(f"inbound.{key}", ""))


def _import_problems(key: str, reference: str, place: str) -> Iterator[Problem]:
    from ezthrottle_provider.config import resolve_reference
    from ezthrottle_provider.customers import is_async
    from ezthrottle_provider.errors import ConfigError, Problem

    try:
        function = resolve_reference(reference, key=key, place=place)
    except ConfigError as error:
        yield from map(_as_typed, error.problems)
    except SystemExit:
        message = f'importing "{reference}" ends the process: it calls sys.exit()'
        yield _as_typed(Problem("E020", ("inbound", key), place, message))
    else:
        if key != "resolve" and is_async(function):
            yield _as_typed(Problem("E020", ("inbound", key), place, f'"{reference}" is async; only resolve may be'))


@contextlib.contextmanager
def _current_directory_first() -> Iterator[None]:
    """As ``python -m`` and the servers have it; a console script's path begins with its own directory instead."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


# The report


def _print_json(
    source: str | None, problems: Sequence[Problem], doubts: Sequence[Problem], settings: Sequence[Setting]
) -> None:
    def plain(problem: Problem) -> dict[str, str]:
        return {"id": problem.id, "key": problem.key, "place": problem.place, "message": problem.message}

    report = {
        "file": source,
        "problems": [*map(plain, problems)],
        "doubts": [*map(plain, doubts)],
        "settings": {setting.key: {"value": setting.value, "place": _place(setting.place)} for setting in settings},
    }
    click.echo(json.dumps(report, indent=2))


def _print_text(
    source: str | None, problems: Sequence[Problem], doubts: Sequence[Problem], found: Examination, *, show_all: bool
) -> None:
    out = Output()
    out.line(source or "no file", "bold")
    listed = [setting for setting in found.settings if show_all or setting.place != "default"]
    widths = [
        min(_WIDEST_KEY, max((len(setting.key) for setting in listed), default=0)),
        min(_WIDEST_VALUE, max((len(setting.value) for setting in listed), default=0)),
    ]
    for setting in listed:
        out.row([setting.key, setting.value, _place(setting.place)], widths=widths, styles=["cyan", "", "dim"])
    hidden = len(found.settings) - len(listed)
    if hidden:
        out.line(f"{hidden} other keys have their defaults; --all shows them", "dim")
    if problems or doubts:
        out.line()
    for problem in (*problems, *doubts):
        style = "red" if problem.id.startswith("E") else "yellow"
        out.row(
            [problem.id, " ".join(part for part in (problem.key, f"({problem.place}):", problem.message) if part)],
            widths=[4],
            styles=[style],
        )
    out.line()
    tally = f"{counted(len(problems), 'mistake')}, {counted(len(doubts), 'doubt')}"
    first = next((problem.id for problem in (*problems, *doubts)), None)
    hint = f"; `ezthrottle check --explain {first}` says more" if first else ""
    out.line(tally + hint, "red" if problems else "yellow" if doubts else "green")
