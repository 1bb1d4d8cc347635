from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import ezthrottle_provider
from ezthrottle_provider.config import PROBLEMS, examine, load, resolve_reference
from ezthrottle_provider.errors import ConfigError

NAN, INFINITY = float("nan"), float("inf")
HASH = "sha256$" + "ab" * 32
RAW_KEY = "sk_live_4eC39HqLyjWDarjtT1zdp7dc"
SECRET = "0123456789abcdef"


def each(id: str, key: str, *values: Any) -> list[tuple[dict[str, Any], str, str]]:
    """One case per value of the key, whose dots lead into tables."""
    cases = []
    for value in values:
        for step in reversed(key.split(".")):
            value = {step: value}
        cases.append((value, id, f"inbound.{key}"))
    return cases


# One mistake each: the keywords, the id and the key that must be reported, and nothing besides.
MISTAKES: list[tuple[dict[str, Any], str, str]] = [
    *each("E003", "max_wait", -1, NAN, INFINITY, True, "1", "", None, [], 1e300),
    *each("E003", "max_queue", 0, 1.0, False, 10**400, -(10**400), "5"),
    *each("E003", "unverified_share", 0, 1.01, 5e-324),
    *each("E003", "tiers.p.weight", 0, -1, NAN, "x", 1e-9, 1e9, None),
    ({"routes": [{"path": "/"}, {"path": "/", "cost": 0}]}, "E003", "inbound.routes[1].cost"),
    *each("E004", "namespace", "", "a b", "{tag}", "x" * 65, 5, None),
    *each("E004", "exempt", [""], ["health"], ["/a\n"], [5], [None], ["/" + "x" * 1024]),
    *each("E004", "client_header", "", "a, b", "a b", ["a", "b"], None),
    *each("E004", "secret", "", b"", 5, "\ud800"),
    *each("E004", "usage_db", 5, "a\0b"),
    *each("E004", "customers.a.tier", "", "a\n", 5, None),
    ({"routes": [{"path": "/", "methods": ["GET POST"]}]}, "E004", "inbound.routes[0].methods"),
    *each("E005", "enforce", 0, 1, "true", None),
    *each("E006", "identify", "", "barer", "header:", "header:a b", len, None, 5),
    *each("E006", "cost", "second", "", None, 5),
    *each("E006", "headers", ["ratelimits"], [None], [[]]),
    *each("E006", "tiers.p.overage", "rejct", "", None),
    ({"routes": [{"path": "/", "hold": ["body"]}]}, "E006", "inbound.routes[0].hold"),
    *each("E007", "max_wiat", 5),
    *each("E007", "tiers.p.wieght", 5),
    *each("E008", "tiers", 5, None, [], "pro"),
    *each("E008", "tiers.p", 5, None, []),
    *each("E008", "exempt", "/a", {}, None, ["/a"] * 10_001),
    *each("E008", "routes", {"path": "/"}, None),
    ({"routes": ["/"]}, "E008", "inbound.routes[0]"),
    ({"pools": {"exports": {}}}, "E009", "inbound.pools.exports.max_concurrent"),
    ({"routes": [{"cost": 2}]}, "E009", "inbound.routes[0].path"),
    *each("E010", "secret", "env:NO_SUCH_VARIABLE", "env:"),
    *each("E010", "redis_url", "env:NO_SUCH_VARIABLE"),
    *each("E011", "redis_url", "redis://localhost"),
    *each("E012", "redis_url", "", "localhost:6379", "http://localhost", "redis://", "redis://h:x", "redis://[", 5),
    *each("E012", "redis_url", "redis://u:1/2@h"),
    *each("E013", "customers.a.key_hashes", [RAW_KEY], [""], [5], [HASH[:-1]]),
    (
        {"customers": {"a": {"key_hashes": [HASH]}, "b": {"key_hashes": [HASH.replace("ab", "AB")]}}},
        "E014",
        "inbound.customers.b.key_hashes",
    ),
    *each("E015", "customers.a.tier", "gold"),
    ({"routes": [{"path": "/", "pool": "exports"}]}, "E016", "inbound.routes[0].pool"),
    *each("E017", "trusted_proxies", ["proxy"], ["10.0.0.1/8"], [5], ["10/8/8"], [""]),
    *each(
        "E018", "tiers.p.quota", "", "5", "0/day", "5/fortnight", "1/day;2/month", "9" * 5000 + "/day", 5, "1/9999 year"
    ),
    *each("E019", "resolve", "a:", ":b", "a b:c", "a:b:c", "a..b:c", "for:x"),
    ({"tiers": {"": {}}}, "E021", 'inbound.tiers.""'),
    ({"tiers": {"a\n": {}}}, "E021", 'inbound.tiers."a\\n"'),
    ({"tiers": {" a": {}}}, "E021", 'inbound.tiers." a"'),
    ({"tiers": {5: {}}}, "E021", "inbound.tiers"),
    ({"pools": {"default": {"max_concurrent": 5}}}, "E022", "inbound.pools.default"),
]
SHARED = {"redis_url": "redis://h", "secret": SECRET, "max_concurrent_total": 2}
DOUBTS: list[tuple[dict[str, Any], str, str]] = [
    *each("W001", "max_wait", 0),
    *each("W002", "unverified_share", 1),
    *each("W003", "trust_keys", True),
    *each("W004", "exempt", ["/a", "*"], ["/*"], ["/**"]),
    *each("W005", "client_header", "x-real-ip"),
    ({"usage_db": "usage.db", "trust_keys": True, "trusted_proxies": ["10.0.0.0/8"]}, "W019", "inbound.usage_db"),
    ({"usage_db": "usage.db", "identify": "user"}, "W019", "inbound.usage_db"),
    *each("W006", "trusted_proxies", ["0.0.0.0/0"], ["::/0"]),
    *each("W007", "secret", "short"),
    *each("W008", "enforce", False),
    *each("W008", "enabled", False),
    *each("W009", "max_wait", 61),
    *each("W009", "max_hold", 301),
    *each("W011", "max_queue", 10_000),
    ({"redis_url": "redis://h", "secret": SECRET}, "W022", "inbound.redis_url"),
    ({**SHARED, "max_concurrent": 3}, "W012", "inbound.max_concurrent"),
    ({**SHARED, "tiers": {"default": {"max_concurrent": 3}}}, "W012", "inbound.tiers.default.max_concurrent"),
    *each("W014", "max_concurrent_total", 2),
    ({"identify": "ip", "customers": {"a": {"key_hashes": [HASH]}}}, "W015", "inbound.identify"),
    *each("W016", "customers.a", {}),
    *each("W016", "tiers.gold", {}),
    *each("W017", "tiers.default.quota", "5/day"),
    *each("W018", "tiers.default.overage", "allow"),
    *each("W018", "tiers.default.overage_price", 1),
]
# E001, E002, W007 in a file, W013: from sources, below. E020: resolve_reference. W010: found at run time.
ELSEWHERE = {"E001", "E002", "E020", "E023", "W010", "W013", "W020", "W021"}


def mistakes_of(**options: Any) -> list[tuple[str, str, str]]:
    with pytest.raises(ConfigError) as caught:
        load(environ={}, **options)
    return [(problem.id, problem.key, problem.place) for problem in caught.value.problems]


@pytest.mark.parametrize(("options", "id", "key"), MISTAKES)
def test_a_mistake_is_reported_once_with_its_id_its_key_and_its_place(
    options: dict[str, Any], id: str, key: str
) -> None:
    assert [(id, key, "keyword")] == mistakes_of(**options)


@pytest.mark.parametrize(("options", "id", "key"), DOUBTS)
def test_a_doubt_is_told_once_and_stops_nothing(options: dict[str, Any], id: str, key: str) -> None:
    doubts = examine(environ={}, **options).doubts
    told = [(doubt.id, doubt.key, doubt.place) for doubt in doubts if doubt.id == id or doubt.id != "W022"]
    assert [(id, key, "keyword")] == told
    load(environ={}, **options)


def test_a_sound_config_raises_no_doubt() -> None:
    sound: dict[str, Any] = {
        "identify": "bearer",
        "trusted_proxies": ["10.0.0.0/8"],
        "client_header": "x-real-ip",
        "trust_keys": True,
        "exempt": ["/", "/a*"],
        "secret": SECRET,
        "usage_db": "usage.db",
        "tiers": {"pro": {"weight": 4, "quota": "5/day", "overage": "allow", "overage_price": 1}},
        "customers": {"acme": {"tier": "pro", "key_hashes": [HASH]}},
    }
    assert () == examine(environ={}, **sound).doubts
    assert () == examine(environ={}).doubts


def test_every_id_is_explained_and_every_explained_id_occurs() -> None:
    assert set(PROBLEMS) == {id for _, id, _ in MISTAKES + DOUBTS} | ELSEWHERE
    source = "".join(path.read_text() for path in (Path(ezthrottle_provider.__path__[0]) / "config").glob("*.py"))
    assert set(re.findall(r'"([EW]\d{3})"', source)) == set(PROBLEMS)
    assert all(re.fullmatch(r"[EW]\d{3}", id) and text.endswith(".") for id, text in PROBLEMS.items())


def test_all_mistakes_of_all_sources_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "ezthrottle.toml"
    path.write_text(
        '[inbound]\nmax_wiat = 3\n[inbound.tiers.pro]\nweight = "x"\n[inbound.customers.acme]\n'
        f'tier = "gold"\nkey_hashes = ["{RAW_KEY}"]\n[[inbound.routes]]\npool = "a"\n'
    )
    with pytest.raises(ConfigError) as caught:
        load(path, environ={"EZTHROTTLE_MAX_HOLD": "soon"}, framework={"enforce": 1}, max_queue=0)
    expected = [
        f'E007 inbound.max_wiat ({path}:2): is not a key that is known here; did you mean "max_wait"?',
        f'E003 inbound.tiers.pro.weight ({path}:4): must be a number > 0, got "x"',
        f'E013 inbound.customers.acme.key_hashes ({path}:7): item 1 must be "sha256$" and 64 hexadecimal digits '
        "(a raw key? hash it with `ezthrottle hash-key`; the value is not shown)",
        f'E009 inbound.routes[0].path ({path}:8): must be a pattern that starts with "/" or "*"',
        'E003 inbound.max_hold (environment EZTHROTTLE_MAX_HOLD): must be a number >= 0, got "soon"',
        "E003 inbound.max_queue (keyword): must be a whole number > 0, got 0",
        "E005 inbound.enforce (framework settings): must be true or false, got 1",
        f'E015 inbound.customers.acme.tier ({path}:6): names the tier "gold", which is not defined',
    ]
    assert expected == str(caught.value).splitlines()


def test_one_mistake_is_not_told_again_as_another_one() -> None:
    faulty = {
        "tiers": {"pro": {"weight": "x"}},
        "pools": {"exports": {"max_concurrent": "x"}},
        "customers": {"acme": {"tier": "pro"}},
        "routes": [{"path": "/", "pool": "exports"}],
        "redis_url": "redis://h",
        "secret": "env:NO_SUCH_VARIABLE",
    }
    assert {
        ("E010", "inbound.secret"),
        ("E003", "inbound.tiers.pro.weight"),
        ("E003", "inbound.pools.exports.max_concurrent"),
    } == {(id, key) for id, key, _ in mistakes_of(**faulty)}


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"max_concurent": 5}, 'did you mean "max_concurrent"?'),
        ({"identify": "X-API-Key"}, 'did you mean "header:x-api-key"?'),
        ({"identify": "Bearer"}, 'did you mean "bearer"?'),
        ({"headers": ["rate-limit"]}, 'did you mean "ratelimit"?'),
        ({"trusted_proxies": ["10.1.2.3/8"]}, 'did you mean "10.0.0.0/8"?'),
        ({"config": {"inbond": {}}}, 'did you mean "inbound"?'),
        ({"customers": {"a": {"key_hashes": [RAW_KEY]}}}, "`ezthrottle hash-key`"),
    ],
)
def test_a_message_says_what_was_probably_meant(options: Mapping[str, Any], hint: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(hint)):
        load(environ={}, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"secret": RAW_KEY, "max_wait": -1, "redis_url": f"redis://u:{RAW_KEY}@h"},
        {"redis_url": f"redis://u:{RAW_KEY}@[", "secret": SECRET},
        {"redis_url": f"redis://u:{RAW_KEY}@h"},
        {"secret": [RAW_KEY]},
        {"customers": {"a": {"key_hashes": [RAW_KEY, HASH + RAW_KEY, {RAW_KEY: 1}]}}},
        {"customers": {"a": {"key_hashes": RAW_KEY}}},
        {"customers": {"a": RAW_KEY}},
    ],
)
def test_no_message_shows_a_key_or_a_secret(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={}, **options)
    assert RAW_KEY not in f"{caught.value} {caught.value!r}"


def test_every_problem_of_a_reference_is_an_explained_one() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_reference("no_such_module:function")
    assert ["E020"] == [problem.id for problem in caught.value.problems]
