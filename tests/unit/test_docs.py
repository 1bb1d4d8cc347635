"""What the documents say is what the code does: the table of keys is generated, and the README's config is loaded.

``WRITE_DOCS=1`` writes the table anew (``make test ARGS="-k docs"`` with that set).
"""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from ezthrottle_provider import Provider
from ezthrottle_provider.config import PROBLEMS, load, reference

ROOT = Path(__file__).resolve().parents[2]
CONFIG_PAGE = ROOT / "docs" / "config.md"

if not CONFIG_PAGE.exists():  # the wheel is tested without the checkout's documents
    pytest.skip("the documents are not part of the wheel", allow_module_level=True)


def the_config_page() -> str:
    lines = [
        "# Every key of the config",
        "",
        "Of `[inbound]` in `ezthrottle.toml`; the same names as keywords, in a dict, and in the environment",
        "(`EZTHROTTLE_MAX_WAIT`, `EZTHROTTLE_TIERS__PRO__WEIGHT`). What wins: keyword, then the framework's settings,",
        "then the environment, then the file, then the default.",
        "`env:NAME` as the value of `secret` or `redis_url` takes it from the environment. This page is generated.",
        "",
        "| key | default | must be | what it is |",
        "|---|---|---|---|",
    ]
    for key, option in reference():
        default = "(required)" if option.required else f"`{_toml(option.default)}`"
        lines.append(f"| `{key}` | {default} | {option.kind.expects.replace('|', chr(92) + '|')} | {option.doc} |")
    lines += [
        "",
        "Tiers with a meaning of their own: `default` (verified customers without a tier) and `unverified`.",
        "",
        "## Every mistake and doubt",
        "",
        "E: the app does not start. W: it does, but it is rarely meant. `ezthrottle check --explain ID` tells it too.",
        "",
        "| id | what it means |",
        "|---|---|",
        *(f"| {id} | {text} |" for id, text in PROBLEMS.items()),
        "",
    ]
    return "\n".join(lines)


def _toml(value: object) -> str:
    if value is None:
        return "absent"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(f'"{item}"' for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def test_the_page_of_keys_is_what_the_code_says() -> None:
    if os.environ.get("WRITE_DOCS"):
        CONFIG_PAGE.write_text(the_config_page(), encoding="utf-8")
    assert the_config_page() == CONFIG_PAGE.read_text(encoding="utf-8")


def readme_blocks(language: str) -> list[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", readme, flags=re.DOTALL)


def test_the_config_in_the_readme_is_without_a_mistake() -> None:
    (text,) = readme_blocks("toml")
    config = load(tomllib.loads(text), environ={"EZTHROTTLE_SECRET": "0123456789abcdef"})
    assert config.pools["exports"].max_concurrent == 4
    assert config.tiers["pro"].weight == 4.0


def test_the_python_in_the_readme_is_python() -> None:
    for block in readme_blocks("python"):
        compile(block, "README.md", "exec", flags=0x2000)  # top-level await allowed, as in a console


def test_a_live_update_as_the_readme_shows_it() -> None:
    provider = Provider(tiers={"pro": {"weight": 4}})
    provider.update(tiers={"pro": {"weight": 8}})
    assert provider.config.tiers["pro"].weight == 8.0
