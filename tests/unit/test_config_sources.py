from __future__ import annotations

import functools
import tomllib
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezthrottle_provider.config import examine, load
from ezthrottle_provider.config.sources import key_lines
from ezthrottle_provider.errors import ConfigError, Problem

# Every trap for a reader that goes by lines: text that looks like headers and keys, statements over several lines.
TRAPS = '''\
# max_wait = 1

[inbound] # [inbound.tiers.fake]
"max_wait" = 2 # max_queue = 3
exempt = [
  # "max_hold = 1"
  "/a", "]",
]
namespace = """
[inbound.tiers.fake]
max_hold = 5
"""
usage_db = \'\'\'
max_hold = 6\'\'\'
max_hold = 7
pools.exports.max_concurrent = 2
pools.quick = { max_concurrent = 3 }
[ inbound . tiers . "pro plus" ]
weight = 4
[[inbound.routes]]
path = "/a"
[inbound.routes.inner]
x = 1
[[inbound.routes]]

path = "/b"
[[inbound.routes.deep]]
y = 1
[[inbound.routes.deep]]
y = 2
[[inbound.routes]]
path = "/c"
[[inbound.routes.deep]]
y = 3
[outbound]
max_hold = 9
'''


def test_the_line_of_a_key_is_where_it_stands_and_nowhere_else() -> None:
    lines = key_lines(TRAPS)
    expected = {
        ("inbound", "max_wait"): 4,
        ("inbound", "exempt"): 5,
        ("inbound", "namespace"): 9,
        ("inbound", "usage_db"): 13,
        ("inbound", "max_hold"): 15,
        ("inbound", "pools", "exports", "max_concurrent"): 16,
        ("inbound", "pools", "quick", "max_concurrent"): 17,
        ("inbound", "tiers", "pro plus"): 18,
        ("inbound", "tiers", "pro plus", "weight"): 19,
        ("inbound", "routes", 0): 20,
        ("inbound", "routes", 0, "path"): 21,
        ("inbound", "routes", 0, "inner", "x"): 23,
        ("inbound", "routes", 1): 24,
        ("inbound", "routes", 1, "path"): 26,
        ("inbound", "routes", 1, "deep", 1, "y"): 30,
        ("inbound", "routes", 2, "deep", 0, "y"): 34,
        ("outbound", "max_hold"): 36,
    }
    assert expected == {path: lines[path] for path in expected}
    assert not [path for path in lines if "fake" in path]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_count_alike_for_both_ends_of_line(newline: str) -> None:
    assert key_lines(TRAPS) == key_lines(TRAPS.replace("\n", newline))


def test_a_statement_too_long_to_be_read_line_by_line_ends_the_search() -> None:
    text = "a = 1\nb = [\n" + "1,\n" * 300 + "]\nc = 1\n"
    assert {("a",): 1} == key_lines(text)


names = st.sampled_from(["a", "b", "max_wait", '"x y"', "'[q]'"])
values = st.sampled_from(
    ["1", '"a = 1"', "[\n1,\n2]", '"""\na = 1\n[b]\n"""', "{ a = 1, b = { c = 2 } }", "[{a = 1}, {a = 2}]"]
)
statements = st.one_of(
    st.builds("{} = {}".format, st.lists(names, min_size=1, max_size=3).map(".".join), values),
    st.builds("[{}]".format, st.lists(names, min_size=1, max_size=3).map(".".join)),
    st.builds("[[{}]]".format, st.lists(names, min_size=1, max_size=2).map(".".join)),
    st.sampled_from(["", "# a = 1", "  "]),
)


@given(st.lists(statements, max_size=12))
def test_a_line_is_never_wrong(lines: list[str]) -> None:
    kept: list[str] = []
    for line in lines:
        try:
            tomllib.loads("\n".join([*kept, line]))
        except tomllib.TOMLDecodeError:
            continue
        kept.append(line)
    text = "\n".join(kept)
    for path, line_number in key_lines(text).items():
        # The oracle: a value is missing from what stands above its line. (A table may be implied above its header.)
        above, below = text.split("\n")[: line_number - 1], text.split("\n")[line_number - 1]
        assert stands_at(tomllib.loads(text), path)
        assert isinstance(value_at(text, path), dict | list) or not stands_at(tomllib.loads("\n".join(above)), path)
        assert str(next(step for step in reversed(path) if isinstance(step, str))) in below


def value_at(text: str, path: tuple[str | int, ...]) -> Any:
    return functools.reduce(lambda node, step: node[step], path, cast("Any", tomllib.loads(text)))


def stands_at(node: Any, path: tuple[str | int, ...]) -> bool:
    for step in path:
        try:
            node = node[step]
        except (LookupError, TypeError):
            return False
    return True


def only_problem(config: Any, **options: Any) -> Problem:
    with pytest.raises(ConfigError) as caught:
        load(config, environ={}, **options)
    (problem,) = caught.value.problems
    return problem


def test_a_file_that_is_missing_or_unreadable_is_one_clear_problem(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert f"E001 ({missing}): cannot be read: No such file or directory" == str(only_problem(missing))
    assert f"E001 ({tmp_path}): cannot be read: Is a directory" == str(only_problem(str(tmp_path)))
    assert "E001" == only_problem("a\0b").id
    assert "E001 (config): must be a path or a mapping, got a number" == str(only_problem(5))


def test_a_file_that_is_not_utf_8_or_far_too_large_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ezthrottle.toml"
    path.write_bytes(b"[inbound]\nnamespace = '\xff'\n")
    assert "E001" == only_problem(path).id
    path.write_bytes(b"#" * (8 * 1024 * 1024 + 1))
    assert "larger than 8,388,608 bytes" in only_problem(path).message


def test_a_byte_order_mark_is_not_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "ezthrottle.toml"
    path.write_text("[inbound]\nmax_wait = 5\n", encoding="utf-8-sig")
    assert 5.0 == load(path, environ={}).max_wait


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[inbound]\nmax_wait =\n", ":2"),
        ("[inbound]\nmax_wait = 1\nmax_wait = 2\n", ":3"),
        ("[inbound\n", ":1"),
        ("[inbound]\nexempt = [\n", ""),
        ("a = " + "[" * 5000, ""),
        ("a = " + "9" * 5000, ""),
    ],
)
def test_what_is_not_toml_is_one_problem_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    path = tmp_path / "ezthrottle.toml"
    path.write_text(text)
    problem = only_problem(path)
    assert ("E002", f"{path}{line}") == (problem.id, problem.place)
    assert "(at line" not in problem.message


def test_only_inbound_and_outbound_stand_at_the_top(tmp_path: Path) -> None:
    path = tmp_path / "ezthrottle.toml"
    path.write_text("max_wait = 3\n[inbound]\nmax_wait = 4\n[outbound]\nanything = 1\n")
    assert f"E007 max_wait ({path}:1): is not a table that is known here" == str(only_problem(path))
    assert "inbond" == only_problem({"inbond": {}}).key
    assert "inbound" == only_problem({"inbound": 5}).key


def test_a_secret_written_into_the_file_is_a_doubt_and_one_from_elsewhere_is_not(tmp_path: Path) -> None:
    path = tmp_path / "ezthrottle.toml"
    path.write_text('[inbound]\nsecret = "0123456789abcdef"\n')
    assert [("W007", f"{path}:2")] == [(doubt.id, doubt.place) for doubt in examine(path, environ={}).doubts]
    path.write_text('[inbound]\nsecret = "env:S"\n')
    assert () == examine(path, environ={"S": "0123456789abcdef"}).doubts
    assert () == examine(environ={"EZTHROTTLE_SECRET": "0123456789abcdef"}).doubts


@pytest.mark.parametrize(
    "name", ["EZTHROTTLE_PORT", "EZTHROTTLE_SERVICE_HOST", "EZTHROTTLE_API_KEY", "EZTHROTTLE_", "MAX_WAIT"]
)
def test_a_variable_that_is_not_ours_is_left_alone(name: str) -> None:
    found = examine(environ={name: "tcp://10.0.0.1:80"})
    assert ((), ()) == (found.problems, found.doubts)


def test_a_variable_that_looks_like_a_misspelt_key_is_a_doubt() -> None:
    (doubt,) = examine(environ={"EZTHROTTLE_MAX_CONCURENT": "8"}).doubts
    assert (
        "W013 inbound.max_concurent (environment EZTHROTTLE_MAX_CONCURENT): is not a key that is known here; "
        'did you mean "max_concurrent"?'
    ) == str(doubt)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("EZTHROTTLE_TIERS__PRO__WIEGHT", "inbound.tiers.pro.wieght"),
        ("EZTHROTTLE_TIERS__PRO", "inbound.tiers.pro"),
        ("EZTHROTTLE_TIERS", "inbound.tiers"),
        ("EZTHROTTLE_ROUTES", "inbound.routes"),
        ("EZTHROTTLE_ROUTES__0__PATH", "inbound.routes.0.path"),
        ("EZTHROTTLE_MAX_WAIT__X", "inbound.max_wait.x"),
    ],
)
def test_a_variable_under_one_of_our_keys_must_fit(name: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ={name: "5"})
    assert [("E007", key, f"environment {name}")] == [(p.id, p.key, p.place) for p in caught.value.problems]
