"""Habits of this code base that no linter knows (CONTRIBUTING.md gives the reasons)."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

PACKAGES = ("ezthrottle_provider", "starlette_ezthrottle")
LONGEST_MODULE = 400
# A file is named after the thing that it is about; these are names for "everything else".
DRAWERS = frozenset({"base", "common", "core", "helpers", "misc", "tools", "util", "utils"})
SLEEPS = frozenset({"anyio.sleep", "asyncio.sleep", "time.sleep", "trio.sleep"})


def modules_of(package: str) -> list[Path]:
    """The source files of a package, wherever it was installed."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    return [path for folder in spec.submodule_search_locations or [] for path in sorted(Path(folder).rglob("*.py"))]


def breaches(name: str, source: str) -> list[str]:
    """What a module does against the house style."""
    lines, tree = source.splitlines(), ast.parse(source)
    assigned = {target.id for node in tree.body for target in _targets(node) if isinstance(target, ast.Name)}
    checks = {
        f"longer than {LONGEST_MODULE} lines": len(lines) > LONGEST_MODULE,
        "a drawer, not a noun": name.removesuffix(".py") in DRAWERS,
        "no docstring": ast.get_docstring(tree) is None,
        "no __all__": "__all__" not in assigned,
        "no `from __future__ import annotations`": "from __future__ import annotations" not in lines,
    }
    return [what for what, broken in checks.items() if broken] + [
        f"line {node.lineno}: a broad except without its reason"
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and _is_broad(node) and "#" not in lines[node.lineno - 1]
    ]


def sleeps(source: str) -> list[int]:
    """The lines on which a module sleeps."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return sorted(call.lineno for call in calls if ast.unparse(call.func) in SLEEPS)


def _targets(node: ast.stmt) -> list[ast.expr]:
    return node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []


def _is_broad(handler: ast.ExceptHandler) -> bool:
    return handler.type is None or ast.unparse(handler.type) in {"BaseException", "Exception"}


@pytest.mark.parametrize("package", PACKAGES)
def test_every_module_keeps_the_house_style(package: str) -> None:
    modules = modules_of(package)
    assert modules
    found = {path.name: breaches(path.name, path.read_text(encoding="utf-8")) for path in modules}
    assert {} == {name: broken for name, broken in found.items() if broken}


def test_no_unit_test_sleeps() -> None:
    modules = sorted(Path(__file__).parent.rglob("*.py"))
    assert {} == {path.name: found for path in modules if (found := sleeps(path.read_text(encoding="utf-8")))}


GOOD = '"""A noun."""\n\nfrom __future__ import annotations\n\n__all__ = []\n'


def test_a_module_in_the_house_style_passes() -> None:
    handler = "try:\n    f()\nexcept Exception:  # a hook is not ours\n    pass\n"
    assert [] == breaches("noun.py", GOOD + handler)


@pytest.mark.parametrize(
    ("name", "source", "found"),
    [
        ("utils.py", GOOD, ["a drawer, not a noun"]),
        ("noun.py", GOOD + "\n" * LONGEST_MODULE, ["longer than 400 lines"]),
        ("noun.py", GOOD.replace('"""', "#"), ["no docstring"]),
        ("noun.py", GOOD.replace("__all__", "names"), ["no __all__"]),
        (
            "noun.py",
            GOOD + "try:\n    f()\nexcept Exception:\n    pass\n",
            ["line 8: a broad except without its reason"],
        ),
        ("noun.py", GOOD + "try:\n    f()\nexcept:\n    pass\n", ["line 8: a broad except without its reason"]),
    ],
)
def test_a_breach_of_the_house_style_is_found(name: str, source: str, found: list[str]) -> None:
    assert found == breaches(name, source)


def test_a_planted_sleep_is_found() -> None:
    assert [2] == sleeps("import time\ntime.sleep(1)\n")
