"""The walls of the building: what the package may load, what the pure middle may touch, what users may rely on."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ezthrottle_provider

# A provider's process pays for what `import ezthrottle_provider` loads, and must not need it: frameworks are for
# integrations/, clients for sharing/ and outbound/, the terminal for the command.
FOREIGN = frozenset(
    """
    starlette fastapi django rest_framework flask werkzeug litestar quart sanic
    redis valkey coredis hiredis
    httpx httpx2 httpcore aiohttp requests urllib3 h11 h2
    uvicorn hypercorn granian gunicorn gevent uvloop
    prometheus_client opentelemetry
    click rich
    """.split()
)

# scheduling/ decides and does nothing else: with these modules it can neither wait, nor ask what time it is, nor talk.
PURE = frozenset(
    """
    __future__ abc bisect collections collections.abc dataclasses enum fractions functools heapq itertools math operator
    types typing
    """.split()
)
IMPURE_CALLS = frozenset({"__import__", "breakpoint", "compile", "eval", "exec", "input", "open", "print"})
SCHEDULING = "ezthrottle_provider.scheduling"

PUBLIC = (
    "ASGIFairQueue",
    "ConfigError",
    "Customer",
    "EZThrottleError",
    "Provider",
    "__version__",
    "nested_headers",
)


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after a statement, and had not before it."""
    source = f"import sys; before = set(sys.modules); {statement}; print(*(set(sys.modules) - before))"
    run = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    return {module.partition(".")[0] for module in run.stdout.split()}


def impurities(source: str) -> list[str]:
    """What a module of scheduling/ does that it may not: one entry for each import, call and await."""
    return [found for node in ast.walk(ast.parse(source)) for found in _impurities_of(node)]


def _impurities_of(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names if not _is_allowed(alias.name))
        case ast.ImportFrom(module=module, level=0) if module is not None and not _is_allowed(module):
            yield module
        case ast.ImportFrom(module=module, level=level) if level > 1:
            yield "." * level + (module or "")
        case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS:
            yield f"{name}()"
        case ast.AsyncFunctionDef() | ast.AsyncFor() | ast.AsyncWith() | ast.Await():
            yield "async"
        case _:
            pass


def _is_allowed(module: str) -> bool:
    return module in PURE or module == SCHEDULING or module.startswith(f"{SCHEDULING}.")


def scheduling_modules() -> list[Path]:
    """Its source files, wherever the package was installed: the guard holds for the wheel as for the checkout."""
    spec = importlib.util.find_spec(SCHEDULING)
    assert spec is not None
    return sorted(path for folder in spec.submodule_search_locations or [] for path in Path(folder).rglob("*.py"))


def test_importing_the_package_loads_no_framework_no_redis_and_no_http_client() -> None:
    assert set() == loaded_by("import ezthrottle_provider") & FOREIGN


@pytest.mark.parametrize("module", ["httpx", "starlette"])
def test_the_import_guard_catches_what_it_is_there_for(module: str) -> None:
    assert module in loaded_by(f"import {module}") & FOREIGN


def test_the_pure_middle_imports_no_io_no_clock_no_threads_and_no_asyncio() -> None:
    modules = scheduling_modules()
    assert len(modules) > 1
    assert {} == {path.name: found for path in modules if (found := impurities(path.read_text(encoding="utf-8")))}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import time", ["time"]),
        ("from time import monotonic as now", ["time"]),
        ("def f():\n    import asyncio, math", ["asyncio"]),
        ("import os.path", ["os.path"]),
        ("from threading import Lock", ["threading"]),
        ("from ezthrottle_provider.config import InboundConfig", ["ezthrottle_provider.config"]),
        ("from ..inbound import gate", ["..inbound"]),
        ("from .. import headers", [".."]),
        ("print(open('/etc/hosts').read())", ["print()", "open()"]),
        ("__import__('time').time()", ["__import__()"]),
        ("async def f() -> None: ...", ["async"]),
    ],
)
def test_the_purity_guard_catches_a_planted_impurity(source: str, found: list[str]) -> None:
    assert found == impurities(source)


@pytest.mark.parametrize(
    "source",
    [
        "from __future__ import annotations\nimport heapq, math\nfrom collections.abc import Callable",
        "from .flows import Flow\nfrom . import callers",
        "from ezthrottle_provider.scheduling.callers import Caller",
    ],
)
def test_the_purity_guard_lets_pure_code_be(source: str) -> None:
    assert [] == impurities(source)


def test_the_public_names_are_exactly_these() -> None:
    assert PUBLIC == tuple(sorted(ezthrottle_provider.__all__))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert hasattr(ezthrottle_provider, name)


def test_a_star_import_brings_nothing_else() -> None:
    namespace: dict[str, object] = {}
    exec("from ezthrottle_provider import *", namespace)
    assert set(PUBLIC) == set(namespace) - {"__builtins__"}
