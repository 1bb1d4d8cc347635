from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezthrottle_provider.config import PROBLEMS, InboundConfig, Pool, Route, Tier, examine, load
from ezthrottle_provider.config.sources import key_lines
from ezthrottle_provider.config.tables import options_of
from ezthrottle_provider.errors import ConfigError

texts = st.text(st.characters(codec=None), max_size=30) | st.sampled_from(
    [
        "default",
        "pro",
        "bearer",
        "a:b",
        "header:x",
        "/a",
        "*",
        "5/day",
        "body",
        "env:X",
        "redis://u:p@h",
        "10.0.0.0/8",
        "1",
    ]
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(10**400, 10**401), st.floats(), texts, st.binary(max_size=5)
)
keys = st.sampled_from([*options_of(InboundConfig), *options_of(Tier), *options_of(Route), *options_of(Pool)]) | texts
anything: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys | st.integers() | st.none(), inner, max_size=6),
    max_leaves=25,
)
# Mostly right at the top, so that the mistakes are found deep inside.
trees = st.fixed_dictionaries({}, optional=dict.fromkeys(options_of(InboundConfig), anything))
tables = st.dictionaries(texts, st.dictionaries(keys, anything, max_size=4), max_size=3)
nested = st.fixed_dictionaries(
    {},
    optional={
        "tiers": tables,
        "customers": tables,
        "pools": tables,
        "routes": st.lists(st.dictionaries(keys, anything)),
    },
)


def check(config: Any, **options: Any) -> None:
    found = examine(config, **options)
    for problem in (*found.problems, *found.doubts):
        assert problem.id in PROBLEMS
        assert problem.place
        assert problem.message
        assert problem.key or problem.id in {"E001", "E002", "E008"}
        str(problem).encode("utf-8", "strict")
        assert 1 == len(str(problem).splitlines())
        assert 1000 > len(str(problem))
    if found.config is None:
        with pytest.raises(ConfigError) as caught:
            load(config, **options)
        assert found.problems == caught.value.problems != ()
    else:
        assert () == found.problems
        assert found.config == load(config, **options) == found.config.updated()
        assert repr(found.config)


@given(anything | trees | nested)
def test_whatever_is_given_as_config_nothing_but_a_config_error_comes_out(config: Any) -> None:
    check(config if isinstance(config, Mapping) or config is None else {"inbound": config}, environ={})


@given(anything)
def test_whatever_a_framework_holds_nothing_but_a_config_error_comes_out(settings: Any) -> None:
    if isinstance(settings, Mapping):
        settings = {key: value for key, value in settings.items() if key != "config"}
    check(None, framework=settings, environ={})


@given(trees | nested)
def test_whatever_the_keywords_are_nothing_but_a_config_error_comes_out(options: dict[str, Any]) -> None:
    check(None, environ={}, **options)


@given(
    st.dictionaries(
        st.builds(
            "EZTHROTTLE_{}".format,
            keys.map(str.upper) | st.builds("{}__{}__{}".format, keys, keys, keys).map(str.upper),
        ),
        texts,
        max_size=5,
    )
)
def test_whatever_the_environment_holds_nothing_but_a_config_error_comes_out(environ: dict[str, str]) -> None:
    environ.pop("EZTHROTTLE_CONFIG", None)
    check(None, environ=environ)


@given(st.text())
def test_lines_can_be_looked_for_in_any_text(text: str) -> None:
    key_lines(text)


def test_a_config_with_ten_thousand_customers_is_read_in_reasonable_work() -> None:
    customers = {f"c{number}": {"key_hashes": [f"sha256${number:064x}"], "weight": 2} for number in range(10_000)}
    config = load({"customers": customers}, environ={})
    assert 10_000 == len(config.customers)
    with pytest.raises(ConfigError):
        config.updated(customers={"c1": {"weight": 0}})
