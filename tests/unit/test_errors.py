from __future__ import annotations

import pickle

import pytest

from ezthrottle_provider.errors import ConfigError, EZThrottleError, Problem

WEIGHT = Problem("E003", ("inbound", "tiers", "pro", "weight"), "ezthrottle.toml:14", 'must be a number > 0, got "x"')
FILE = Problem("E001", (), "ezthrottle.toml", "cannot be read: No such file or directory")


def test_a_config_error_is_ours_and_a_value_error() -> None:
    with pytest.raises(EZThrottleError):
        raise ConfigError([WEIGHT])
    with pytest.raises(ValueError, match=r"E003 inbound\.tiers"):
        raise ConfigError([WEIGHT])


def test_its_text_lists_all_problems_one_per_line() -> None:
    expected = (
        'E003 inbound.tiers.pro.weight (ezthrottle.toml:14): must be a number > 0, got "x"\n'
        "E001 (ezthrottle.toml): cannot be read: No such file or directory"
    )
    error = ConfigError(iter([WEIGHT, FILE]))
    assert expected == str(error)
    assert (WEIGHT, FILE) == error.problems


def test_it_survives_the_way_to_another_process() -> None:
    assert (WEIGHT,) == pickle.loads(pickle.dumps(ConfigError([WEIGHT]))).problems


@pytest.mark.parametrize(
    ("path", "key"),
    [
        (("inbound", "routes", 0, "cost"), "inbound.routes[0].cost"),
        (("inbound", "tiers", "pro plus"), 'inbound.tiers."pro plus"'),
        (("inbound", "tiers", "a\nb\u2028\ud800"), 'inbound.tiers."a\\nb\\u2028\\ud800"'),
        (("inbound", "größe"), 'inbound."größe"'),
        (("inbound", ""), 'inbound.""'),
        (("x" * 1000,), f'"{"x" * 64}..."'),
    ],
)
def test_a_key_stays_in_one_short_line_whatever_its_names(path: tuple[str | int, ...], key: str) -> None:
    assert key == Problem("E007", path, "keyword", "").key
