from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from ezthrottle_provider.config import (
    CustomerEntry,
    InboundConfig,
    Pool,
    Route,
    Secret,
    Tier,
    examine,
    load,
    reference,
    resolve_reference,
)
from ezthrottle_provider.errors import ConfigError

HASH = "sha256$" + "ab" * 32
SECRET = "0123456789abcdef-and-more"

# What the specification of the public surface shows, word for word where it is a value.
SHOWN = f"""
[inbound]
identify = "header:x-api-key"    # "header:NAME" | "bearer" | "ip" | "user" (the framework's) | "module:function"
trust_keys = false
resolve = "myapp.auth:customer"
max_concurrent = 32
max_concurrent_total = 0
max_wait = 10.0
max_hold = 10.0
max_queue = 100
max_queue_total = 10_000
cost = "seconds"
unverified_share = 0.2
exempt = ["/health*"]
redis_url = "redis://localhost:6379/0"
secret = "env:EZTHROTTLE_SECRET"
namespace = "default"
headers = ["ezthrottle", "ratelimit"]
trusted_proxies = ["10.0.0.0/8"]
client_header = "x-forwarded-for"
enforce = true
enabled = true

[inbound.tiers.free]
weight = 1
shared_queue = true
quota = "1000000/month"
overage = "reject"
overage_price = 0.0005
[inbound.tiers.pro]
weight = 4
rps = 50
max_concurrent = 10
[inbound.customers.acme]
tier = "pro"
key_hashes = ["{HASH}"]

[[inbound.routes]]
path = "/v1/stream/*"
hold = "first-byte"
cost = 5
pool = "exports"
[inbound.pools.exports]
max_concurrent = 2

[outbound]
store = "sqlite:///ezthrottle.db"
[[outbound.destinations."api.stripe.com".routes]]
name = "iad"
"""


def config_file(folder: Path, text: str) -> Path:
    path = folder / "ezthrottle.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_config_that_the_specification_shows_is_read_as_it_stands(tmp_path: Path) -> None:
    config = load(config_file(tmp_path, SHOWN), environ={"EZTHROTTLE_SECRET": SECRET})
    expected = InboundConfig(
        identify="header:x-api-key",
        resolve="myapp.auth:customer",
        max_concurrent=32,
        exempt=("/health*",),
        redis_url="redis://localhost:6379/0",
        secret=Secret(SECRET),
        trusted_proxies=(ipaddress.IPv4Network("10.0.0.0/8"),),
        tiers={
            "free": Tier(shared_queue=True, quota="1000000/month", overage_price=0.0005),
            "pro": Tier(weight=4, rps=50, max_concurrent=10),
        },
        customers={"acme": CustomerEntry(tier="pro", key_hashes=(HASH,))},
        routes=(Route(path="/v1/stream/*", hold="first-byte", cost=5, pool="exports"),),
        pools={"exports": Pool(max_concurrent=2)},
    )
    assert expected == config


def test_without_any_source_everything_has_its_documented_default() -> None:
    config = load(environ={})
    assert InboundConfig() == config
    assert (None, 0, 10.0, 10.0) == (
        config.max_concurrent,
        config.max_concurrent_total,
        config.max_wait,
        config.max_hold,
    )
    assert (100, 10_000, 100, 0.2) == (
        config.max_queue,
        config.max_queue_total,
        config.max_streams,
        config.unverified_share,
    )
    assert ("ezthrottle", "ratelimit") == config.headers
    assert {"default": Tier(), "unverified": Tier()} == config.tiers


TYPED: dict[str, Any] = {
    "identify": "bearer",
    "trust_keys": True,
    "max_concurrent": 8,
    "max_wait": 2.5,
    "unverified_share": 1,
    "exempt": ["/a", "/b*"],
    "redis_url": "rediss://user:pw@redis.example:6380/1",
    "secret": SECRET,
    "headers": ["x-ratelimit", "aqueduct"],
    "trusted_proxies": ["10.0.0.0/8", "2001:db8::/32"],
    "client_header": "X-Real-IP",
    "enforce": False,
    "tiers": {"pro": {"weight": 8, "rps": 0.5, "shared_queue": True, "quota": "10 per 2 hours", "overage": "allow"}},
    "customers": {"acme": {"tier": "pro", "key_hashes": [HASH.upper().replace("SHA", "sha")], "max_concurrent": 3}},
    "pools": {"exports": {"max_concurrent": 2}},
}
AS_FILE = f"""
[inbound]
identify = "bearer"
trust_keys = true
max_concurrent = 8
max_wait = 2.5
unverified_share = 1
exempt = ["/a", "/b*"]
redis_url = "rediss://user:pw@redis.example:6380/1"
secret = "{SECRET}"
headers = ["x-ratelimit", "aqueduct"]
trusted_proxies = ["10.0.0.0/8", "2001:db8::/32"]
client_header = "X-Real-IP"
enforce = false
tiers.pro = {{ weight = 8, rps = 0.5, shared_queue = true, quota = "10 per 2 hours", overage = "allow" }}
pools.exports.max_concurrent = 2
[inbound.customers.acme]
tier = "pro"
key_hashes = ["{HASH}"]
max_concurrent = 3
"""
AS_ENVIRONMENT = {
    "EZTHROTTLE_IDENTIFY": "bearer",
    "EZTHROTTLE_TRUST_KEYS": "True",
    "EZTHROTTLE_MAX_CONCURRENT": "8",
    "EZTHROTTLE_MAX_WAIT": "2.5",
    "EZTHROTTLE_UNVERIFIED_SHARE": "1",
    "EZTHROTTLE_EXEMPT": "/a, /b*,",
    "EZTHROTTLE_REDIS_URL": "env:REDIS_URL",
    "REDIS_URL": "rediss://user:pw@redis.example:6380/1",
    "EZTHROTTLE_SECRET": SECRET,
    "EZTHROTTLE_HEADERS": "x-ratelimit,aqueduct",
    "EZTHROTTLE_TRUSTED_PROXIES": "10.0.0.0/8, 2001:db8::/32",
    "EZTHROTTLE_CLIENT_HEADER": "X-Real-IP",
    "EZTHROTTLE_ENFORCE": "0",
    "EZTHROTTLE_TIERS__PRO__WEIGHT": "8",
    "EZTHROTTLE_TIERS__PRO__RPS": "0.5",
    "EZTHROTTLE_TIERS__PRO__SHARED_QUEUE": "1",
    "EZTHROTTLE_TIERS__PRO__QUOTA": "10 per 2 hours",
    "EZTHROTTLE_TIERS__PRO__OVERAGE": "allow",
    "EZTHROTTLE_CUSTOMERS__ACME__TIER": "pro",
    "EZTHROTTLE_CUSTOMERS__ACME__KEY_HASHES": HASH,
    "EZTHROTTLE_CUSTOMERS__ACME__MAX_CONCURRENT": "3",
    "EZTHROTTLE_POOLS__EXPORTS__MAX_CONCURRENT": "2",
    "EZTHROTTLE_NAMESPACE": "",
}


def test_all_sources_give_the_same_typed_config(tmp_path: Path) -> None:
    by_keyword = load(environ={}, **TYPED)
    assert by_keyword == load(config_file(tmp_path, AS_FILE), environ={})
    assert by_keyword == load(str(config_file(tmp_path, AS_FILE.replace("[inbound]", "").replace("inbound.", ""))))
    assert by_keyword == load({"inbound": TYPED, "outbound": {"store": 1}}, environ={})
    assert by_keyword == load(TYPED, environ={})
    assert by_keyword == load(framework=TYPED, environ={})
    assert by_keyword == load(environ=AS_ENVIRONMENT)
    assert by_keyword == InboundConfig(**{name: getattr(by_keyword, name) for name in InboundConfig.__slots__})
    assert (8, float, "x-real-ip") == (
        by_keyword.max_concurrent,
        type(by_keyword.unverified_share),
        by_keyword.client_header,
    )


def test_a_higher_source_decides_value_by_value(tmp_path: Path) -> None:
    path = config_file(tmp_path, "[inbound]\nmax_wait = 1\nmax_hold = 1\nmax_queue = 1\nmax_streams = 1\n")
    environ = {"EZTHROTTLE_MAX_HOLD": "2", "EZTHROTTLE_MAX_QUEUE": "2", "EZTHROTTLE_MAX_STREAMS": "2"}
    config = load(path, framework={"max_queue": 3, "max_streams": 3}, environ=environ, max_streams=4)
    assert (1.0, 2.0, 3, 4) == (config.max_wait, config.max_hold, config.max_queue, config.max_streams)


def test_tables_under_names_are_merged_key_by_key_and_lists_are_not() -> None:
    below = {
        "tiers": {"pro": {"weight": 2, "rps": 5}, "free": {"weight": 1}},
        "exempt": ["/a"],
        "routes": [{"path": "/"}],
    }
    config = load(
        below, environ={"EZTHROTTLE_TIERS__PRO__MAX_CONCURRENT": "7"}, tiers={"pro": {"weight": 8}}, exempt=["/b"]
    )
    assert Tier(weight=8, rps=5, max_concurrent=7) == config.tiers["pro"]
    assert ["free", "pro"] == sorted(config.tiers.keys() - {"default", "unverified"})
    assert ("/b",) == config.exempt
    assert (Route(path="/"),) == config.routes


def test_none_undoes_what_a_lower_source_says_where_a_value_may_be_absent() -> None:
    config = load(
        {"max_concurrent": 5, "tiers": {"pro": {"rps": 5}}},
        environ={},
        max_concurrent=None,
        tiers={"pro": {"rps": None}},
    )
    assert (None, None) == (config.max_concurrent, config.tiers["pro"].rps)


@pytest.mark.parametrize("name", ["Pro-Plus", "pro plus", "pro_plus"])
def test_a_variable_finds_the_name_that_it_cannot_spell(name: str) -> None:
    config = load({"tiers": {name: {"rps": 5}}}, environ={"EZTHROTTLE_TIERS__PRO_PLUS__WEIGHT": "8"})
    assert Tier(weight=8, rps=5) == config.tiers[name]
    assert 3 == len(config.tiers)


def test_the_file_is_named_by_argument_then_by_the_framework_then_by_the_environment(tmp_path: Path) -> None:
    files = {}
    for place, name in enumerate(("argument", "framework", "environment"), 1):
        (tmp_path / name).mkdir()
        files[name] = config_file(tmp_path / name, f"[inbound]\nmax_queue = {place}\n")
    environ = {"EZTHROTTLE_CONFIG": str(files["environment"])}
    assert 3 == load(environ=environ).max_queue
    assert 2 == load(framework={"config": files["framework"]}, environ=environ).max_queue
    assert 1 == load(files["argument"], framework={"config": files["framework"]}, environ=environ).max_queue


def test_a_config_can_be_the_base_of_another_one() -> None:
    config = load(TYPED, environ={})
    assert config == load(config, environ={})
    assert 99 == load(config, environ={}, max_queue=99).max_queue


def test_an_update_merges_and_leaves_the_old_config_as_it_was() -> None:
    config = load({"tiers": {"pro": {"weight": 4, "rps": 50}}}, environ={})
    changed = config.updated(tiers={"pro": {"weight": 8}}, max_wait=1)
    assert (Tier(weight=8, rps=50), 1.0) == (changed.tiers["pro"], changed.max_wait)
    assert (Tier(weight=4, rps=50), 10.0) == (config.tiers["pro"], config.max_wait)


def test_an_update_is_checked_like_any_other_source() -> None:
    config = load(environ={})
    with pytest.raises(ConfigError) as caught:
        config.updated(tiers={"pro": {"wieght": 8}}, max_wait=-1, redis_url="redis://localhost")
    found = {(problem.id, problem.key, problem.place) for problem in caught.value.problems}
    assert {
        ("E007", "inbound.tiers.pro.wieght", "keyword"),
        ("E003", "inbound.max_wait", "keyword"),
        ("E011", "inbound.redis_url", "keyword"),
    } == found


def test_the_constructors_check_too() -> None:
    with pytest.raises(ConfigError, match="E003 weight"):
        Tier(weight=float("nan"))
    with pytest.raises(ConfigError, match=r"(?s)E003 max_wait.*E015 customers\.acme\.tier"):
        InboundConfig(max_wait=-1, customers={"acme": CustomerEntry(tier="gold")})
    with pytest.raises(ConfigError, match=r"E008 tiers\.pro"):
        InboundConfig(tiers={"pro": {"weight": 1}})  # type: ignore[dict-item]


def test_functions_are_taken_as_they_are_and_references_are_not_imported() -> None:
    def customer(key: str) -> None: ...

    config = load(environ={}, resolve=customer, cost=len, identify="no_such_module:key")
    assert (customer, len, "no_such_module:key") == (config.resolve, config.cost, config.identify)


def test_a_path_object_may_name_the_usage_file() -> None:
    assert "usage.db" == load(environ={}, usage_db=Path("usage.db")).usage_db


def test_an_update_keeps_the_tables_that_it_does_not_touch() -> None:
    config = load({"tiers": {"pro": {"weight": 4}, "free": {"weight": 1}}}, environ={})
    changed = config.updated(tiers={"pro": {"weight": 8}})
    assert config.tiers["free"] is changed.tiers["free"]


def test_a_reference_resolves_to_what_it_names() -> None:
    assert Path.home == resolve_reference("pathlib:Path.home")


@pytest.mark.parametrize(
    ("text", "id"), [("pathlib", "E019"), ("no_such:thing", "E020"), ("pathlib:thing", "E020"), ("os:sep", "E020")]
)
def test_a_reference_that_leads_nowhere_says_where_it_stands(text: str, id: str) -> None:
    with pytest.raises(ConfigError, match=rf"{id} inbound\.resolve \(ezthrottle\.toml:3\): ") as caught:
        resolve_reference(text, key="resolve", place="ezthrottle.toml:3")
    assert [id] == [problem.id for problem in caught.value.problems]


def test_an_examination_tells_where_every_value_came_from(tmp_path: Path) -> None:
    path = config_file(
        tmp_path, "[inbound]\nmax_wait = 2\n\n[inbound.tiers.pro]\nweight = 4\n[[inbound.routes]]\npath = '/a'\n"
    )
    found = examine(path, framework={"max_hold": 2}, environ={"EZTHROTTLE_TIERS__PRO__RPS": "5"}, max_queue=7)
    places = {setting.key: (setting.value, setting.place) for setting in found.settings}
    assert ("2.0", f"{path}:2") == places["inbound.max_wait"]
    assert ("4.0", f"{path}:5") == places["inbound.tiers.pro.weight"]
    assert ('"/a"', f"{path}:7") == places["inbound.routes[0].path"]
    assert ("2.0", "framework settings") == places["inbound.max_hold"]
    assert ("5.0", "environment EZTHROTTLE_TIERS__PRO__RPS") == places["inbound.tiers.pro.rps"]
    assert ("7", "keyword") == places["inbound.max_queue"]
    assert ("true", "default") == places["inbound.enabled"]
    assert all(setting.doc for setting in found.settings)


def test_every_key_is_documented_once() -> None:
    keys = [key for key, _ in reference()]
    assert len(keys) == len(set(keys))
    assert {
        "identify",
        "max_streams",
        "usage_db",
        "tiers.NAME.weight",
        "routes[].path",
        "pools.NAME.max_concurrent",
    } <= set(keys)
    assert all(option.doc.endswith(".") and option.kind.expects for _, option in reference())


def test_no_repr_shows_the_secret_or_a_password() -> None:
    config = load(TYPED, environ={}, redis_url="redis://user:pa%20ss@[::1]:6379/1?password=hunter2")
    secret = config.secret
    assert secret is not None
    settings = examine(config, environ={}).settings
    for text in (
        repr(config),
        str(config),
        f"{config}",
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret!s:>20}",
        repr(settings),
    ):
        assert not {word for word in (SECRET, "pa%20ss", "pa ss", "hunter2", "user:") if word in text}
    assert 'redis_url="redis://[::1]:6379/1"' in repr(config)
    assert SECRET.encode() == secret.reveal()
    assert Secret(SECRET.encode()) == secret != Secret("another")
