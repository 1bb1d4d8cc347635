from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from ezthrottle_provider import __version__
from ezthrottle_provider.cli import main
from ezthrottle_provider.cli.check import options_from
from ezthrottle_provider.cli.findings import key_header
from ezthrottle_provider.cli.probes import Prober
from ezthrottle_provider.cli.terminal import one_line
from ezthrottle_provider.config import PROBLEMS
from ezthrottle_provider.customers import check_key_strength, public_hash
from ezthrottle_provider.inbound.usage import Ledger

COMMANDS = ("check", "demo", "doctor", "hash-key", "usage")
KEY = "sk_live_PXk5nbUVZM9YBZdDk5V4Q8L1x2s0uA7f"
WEAK = "hunter2-hunter2"
PROGRAM = 'from ezthrottle_provider.cli import main; main(prog_name="ezthrottle")'

GOOD = """
[inbound]
identify = "bearer"
max_wait = 5

[inbound.tiers."pro.eu"]
weight = 4

[inbound.customers.acme]
tier = "pro.eu"
key_hashes = ["sha256$%s"]
""" % ("ab" * 32)


@pytest.fixture(autouse=True)
def _empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("EZTHROTTLE_")]:
        monkeypatch.delenv(name)


def run(*arguments: str, input: str | bytes | None = None) -> Result:
    result = CliRunner().invoke(main, list(arguments), input=input, prog_name="ezthrottle")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def write(text: str, name: str = "ezthrottle.toml") -> str:
    Path(name).write_text(text, encoding="utf-8")
    return name


# The command as a whole


def test_the_version_is_told_without_importing_what_only_commands_need() -> None:
    heavy = ("django", "fastapi", "flask", "limits", "prometheus_client", "redis", "rich", "starlette", "uvicorn")
    program = f"""
import atexit, sys
atexit.register(lambda: print(*sorted(set({heavy!r}) & set(sys.modules))))
{PROGRAM}
"""
    ran = subprocess.run([sys.executable, "-c", program, "--version"], capture_output=True, text=True, check=True)
    assert f"ezthrottle {__version__}\n\n" == ran.stdout


def test_help_lists_every_command_in_one_whole_line() -> None:
    lines = run("--help").output.split("Commands:\n")[1].splitlines()
    assert list(COMMANDS) == [line.split()[0] for line in lines]
    assert not [line for line in lines if line.endswith("...")]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_gives_examples(command: str) -> None:
    help_text = run(command, "--help").output
    assert "Examples:\n" in help_text
    assert f"  ezthrottle {command}" in help_text


def test_an_unknown_command_is_a_mistake_of_the_caller() -> None:
    assert 2 == run("chek").exit_code


# check


def test_a_config_is_printed_with_the_origin_of_each_value_that_is_no_default() -> None:
    result = run("check", write(GOOD))
    rows = [line.split() for line in result.output.splitlines()]
    assert 0 == result.exit_code
    assert ["inbound.identify", '"bearer"', "ezthrottle.toml:3"] in rows
    assert ["inbound.max_wait", "5.0", "ezthrottle.toml:4"] in rows
    assert ['inbound.tiers."pro.eu".weight', "4.0", "ezthrottle.toml:7"] in rows
    assert "inbound.max_queue " not in result.output
    assert "no mistakes, no doubts" in result.output


def test_all_shows_defaults_too() -> None:
    result = run("check", write(GOOD), "--all")
    assert ["inbound.max_queue", "100", "default"] in [line.split() for line in result.output.splitlines()]
    assert "have their defaults" not in result.output


def test_every_mistake_is_listed_with_id_and_place() -> None:
    result = run("check", write('[inbound]\nmax_wait = "long"\nmax_qeue = 3\n'))
    assert 1 == result.exit_code
    assert "E003  inbound.max_wait (ezthrottle.toml:2): " in result.output
    assert "E007  inbound.max_qeue (ezthrottle.toml:3): " in result.output
    assert "2 mistakes, no doubts" in result.output


def test_a_doubt_fails_only_when_strict() -> None:
    file = write("[inbound]\nmax_wait = 0\n")
    assert 0 == run("check", file).exit_code
    assert 1 == run("check", file, "--strict").exit_code
    assert "W001  inbound.max_wait (ezthrottle.toml:2): " in run("check", file).output


def test_a_file_that_cannot_be_read_has_an_exit_code_of_its_own() -> None:
    assert 2 == run("check", "nowhere.toml").exit_code
    assert "E001" in run("check", "nowhere.toml").output


def test_a_file_that_is_not_toml_is_a_mistake_with_a_line() -> None:
    result = run("check", write("[inbound]\nmax_wait =\n"))
    assert 1 == result.exit_code
    assert "E002  (ezthrottle.toml:2): " in result.output


def test_without_a_file_and_without_settings_there_is_nothing_to_check() -> None:
    result = run("check")
    assert 2 == result.exit_code
    assert "there is no ezthrottle.toml here" in result.output


def test_settings_of_the_environment_alone_can_be_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EZTHROTTLE_MAX_WAIT", "7")
    result = run("check")
    assert 0 == result.exit_code
    assert "environment EZTHROTTLE_MAX_WAIT" in result.output


def test_the_environment_names_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write("[inbound]\nmax_wait = 1\n")
    monkeypatch.setenv("EZTHROTTLE_CONFIG", write("[inbound]\nmax_wait = 2\n", "other.toml"))
    assert "other.toml:2" in run("check").output
    assert "other.toml" not in run("check", "ezthrottle.toml").output


def test_a_value_can_be_set_on_the_command_line() -> None:
    result = run("check", write(GOOD), "--set", "max_wait=3", "--set", "inbound.tiers.pro.eu.weight=8")
    rows = [line.split() for line in result.output.splitlines()]
    assert ["inbound.max_wait", "3.0", "--set"] in rows
    assert ['inbound.tiers."pro.eu".weight', "8.0", "--set"] in rows


def test_a_mistake_on_the_command_line_is_placed_there() -> None:
    assert "E003  inbound.max_wait (--set): " in run("check", "--set", "max_wait=soon").output
    settings = json.loads(run("check", "--json", "--set", "max_wait=3").stdout)["settings"]
    assert {"value": "3.0", "place": "--set"} == settings["inbound.max_wait"]


def test_values_are_written_as_in_the_environment() -> None:
    expected = {"trusted_proxies": ["10.0.0.0/8", "::1"], "enforce": False, "tiers": {"a.b": {"rps": 2.5}}}
    given = ["trusted_proxies=10.0.0.0/8,::1", "enforce=0", "tiers.a.b.rps=2.5"]
    assert expected == options_from(given)


@pytest.mark.parametrize(
    "assignment",
    ["max_wait", "max_wiat=3", "max_wait.x=3", "routes=[]", "tiers.pro=3", "tiers.pro.wieght=3", "config=x", "=3"],
)
def test_what_is_no_key_cannot_be_set(assignment: str) -> None:
    with pytest.raises(click.BadParameter):
        options_from([assignment])


@pytest.mark.parametrize("key", ["secret", "redis_url", "inbound.secret"])
def test_a_secret_is_not_taken_from_the_command_line(key: str) -> None:
    result = run("check", "--set", f"{key}=redis://:swordfish-swordfish@localhost")
    assert 2 == result.exit_code
    assert "swordfish" not in result.output
    assert {"secret": "env:NAME"} == options_from(["secret=env:NAME"])
    assert {"redis_url": "redis://localhost"} == options_from(["redis_url=redis://localhost"])


def test_no_secret_of_a_config_is_printed() -> None:
    file = write('[inbound]\nredis_url = "redis://u:swordfish@localhost/0"\nsecret = "open-sesame-open-sesame"\n')
    for result in (run("check", file, "--all"), run("check", file, "--json")):
        assert "redis://localhost/0" in result.output
        assert not re.search("swordfish|sesame", result.output)


def test_json_holds_the_whole_report() -> None:
    report = json.loads(run("check", write("[inbound]\nmax_wait = 0\n"), "--json").stdout)
    assert ["file", "problems", "doubts", "settings"] == list(report)
    assert {"value": "0.0", "place": "ezthrottle.toml:2"} == report["settings"]["inbound.max_wait"]
    assert {"id", "key", "place", "message"} == set(report["doubts"][0])
    assert [] == report["problems"]


@pytest.mark.parametrize("id", PROBLEMS)
def test_every_id_can_be_explained(id: str) -> None:
    assert f"{id}: {PROBLEMS[id]}\n" == run("check", "--explain", id.lower()).output


def test_an_id_that_does_not_exist_cannot_be_explained() -> None:
    assert 2 == run("check", "--explain", "E999").exit_code


def test_functions_are_imported_from_the_current_directory_and_nothing_is_left_behind() -> None:
    write("def customer(key):\n    return None\nprint('noise')\n", "shop_fine.py")
    before = list(sys.path)
    result = run("check", write('[inbound]\nresolve = "shop_fine:customer"\n'), "--json")
    assert 0 == result.exit_code
    assert [] == json.loads(result.stdout)["problems"]
    assert before == sys.path


@pytest.mark.parametrize(
    ("source", "setting", "said"),
    [
        ("", "resolve", "AttributeError"),
        ("import no_such_module_anywhere", "cost", "ModuleNotFoundError"),
        ("raise RuntimeError('no database')", "identify", "no database"),
        ("import sys; sys.exit(0)", "resolve", "ends the process"),
        ("function = 3", "cost", "cannot be called"),
        ("async def function(*a): ...", "cost", "only resolve may be"),
        ("async def function(*a): ...", "identify", "only resolve may be"),
    ],
)
def test_a_function_that_cannot_be_used_is_a_mistake(
    source: str, setting: str, said: str, request: pytest.FixtureRequest
) -> None:
    module = f"shop_{request.node.callspec.indices['source']}"
    write(source, f"{module}.py")
    file = write(f'[inbound]\n{setting} = "{module}:function"\n')
    result = run("check", file)
    assert 1 == result.exit_code
    assert f"E020  inbound.{setting} (ezthrottle.toml:2): " in result.output
    assert said in result.output
    assert 0 == run("check", file, "--no-import").exit_code


# Terminals and pipes


def test_without_a_terminal_there_is_no_colour_and_no_line_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    lines = run("check", write("[inbound]\nmax_wait = 0\n")).output.splitlines()
    assert not [line for line in lines if "\x1b" in line]
    assert ["W001  inbound.max_wait (ezthrottle.toml:2): is 0: whatever cannot start at once is refused"] == [
        line for line in lines if line.startswith("W001")
    ]


def on_a_terminal(*arguments: str, env: dict[str, str]) -> str:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", **env}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True):
        os.close(theirs)
        if "hash-key" in arguments:
            seen = os.read(ours, 100)
            os.write(ours, f"{KEY}\n".encode())
        else:
            seen = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            seen += part
    os.close(ours)
    return seen.decode().replace("\r\n", "\n")


def test_on_a_terminal_nothing_is_wider_than_it() -> None:
    write("[inbound]\nmax_wait = 0\nmax_hold = 1000\n")
    seen = on_a_terminal("check", env={"COLUMNS": "44"})
    plain = re.sub(r"\x1b\[[0-9;]*m", "", seen)
    assert plain != seen
    assert "whatever" in plain
    assert 44 >= max(map(len, plain.split("\n")))


def test_no_color_is_honoured() -> None:
    write("[inbound]\nmax_wait = 0\n")
    coloured = re.compile(r"\x1b\[(?:[0-9;]*;)?3[0-9]")
    assert coloured.search(on_a_terminal("check", env={"NO_COLOR": ""}))  # an empty one does not count
    assert not coloured.search(on_a_terminal("check", env={"NO_COLOR": "1"}))


def test_what_others_say_cannot_drive_the_terminal() -> None:
    assert "a\\x1b[2Jb\\nc" == one_line("a\x1b[2Jb\nc")
    assert "plain ü" == one_line("plain ü")


# hash-key


@pytest.mark.parametrize("end", ["", "\n", "\r\n", " \n"])
def test_a_key_is_hashed_as_a_header_would_carry_it(end: str) -> None:
    assert f"{public_hash(KEY.encode())}\n" == run("hash-key", input=KEY + end).output


def test_a_typed_key_is_not_shown() -> None:
    seen = on_a_terminal("hash-key", env={})
    assert public_hash(KEY.encode()) in seen
    assert KEY not in seen


@pytest.mark.parametrize(
    "arguments", [(KEY,), ("--force", KEY), (f"--key={KEY}",), (f"-{KEY}",), ("--", KEY), ("--key", KEY), ("-k", KEY)]
)
def test_a_key_on_the_command_line_is_refused_with_the_reason_and_not_repeated(arguments: tuple[str, ...]) -> None:
    result = run("hash-key", *arguments, input=KEY)
    assert 2 == result.exit_code
    assert "history" in result.output
    assert KEY[4:] not in result.output


def test_a_weak_key_is_refused_unless_forced_and_never_repeated() -> None:
    refused, forced = run("hash-key", input=WEAK), run("hash-key", "--force", input=WEAK)
    assert (1, "") == (refused.exit_code, refused.stdout)
    assert "128 are needed" in refused.stderr
    assert WEAK not in refused.output
    assert f"{public_hash(WEAK.encode())}\n" == forced.stdout


@pytest.mark.parametrize(
    "text", ["", " \n", f"{KEY}\n{KEY}\n", f"Bearer {KEY}", f"{KEY}\x07", "é" * 10_000, f"{KEY}\x00{KEY}"]
)
def test_what_is_not_one_key_is_refused_and_not_repeated(text: str) -> None:
    result = run("hash-key", "--force", input=text)  # which is about strength, and nothing else
    assert 2 == result.exit_code
    assert "" == result.stdout
    assert not text.strip() or (KEY not in result.output and "é" not in result.output)


def test_a_generated_key_is_strong_new_and_printed_with_its_hash() -> None:
    keys = set()
    for _ in range(3):
        result = run("hash-key", "--generate", "--prefix", "sk_live_")
        (name, key), (other, hashed) = (line.split() for line in result.stdout.splitlines())
        assert ("key", "hash") == (name, other)
        assert re.fullmatch("sk_live_[A-Za-z0-9]{32}", key)
        assert public_hash(key.encode()) == hashed
        check_key_strength(key.encode())
        keys.add(key)
    assert 3 == len(keys)


@pytest.mark.parametrize("prefix", ["a b", "x" * 33, f"{KEY}:"])
def test_a_prefix_that_cannot_be_one_is_not_repeated(prefix: str) -> None:
    result = run("hash-key", "--generate", "--prefix", prefix)
    assert 2 == result.exit_code
    assert prefix not in result.output


# usage


def count_some(path: str) -> str:
    ledger = Ledger(path)
    for number in range(5):
        ledger.count("acme", "pro", over_quota=number >= 2)
    ledger.count("=evil", "default")
    ledger.close()
    return path


PRICED = '[inbound]\nusage_db = "usage.db"\n[inbound.tiers.pro]\nquota = "2/month"\noverage_price = 0.1\n'


def test_usage_is_printed_with_what_is_over_quota_and_what_it_costs() -> None:
    write(PRICED)
    count_some("usage.db")
    rows = [line.split() for line in run("usage").output.splitlines()]
    assert ["month", "customer", "tier", "requests", "over", "quota", "amount"] == rows[0]
    assert ["acme", "pro", "5", "3", "0.3"] == next(row[1:] for row in rows if "acme" in row)
    assert ["total", "6", "3", "0.3"] == rows[-1]


def test_usage_as_csv_and_json_holds_the_same() -> None:
    write(PRICED)
    count_some("usage.db")
    as_csv = list(csv.DictReader(run("usage", "--csv").stdout.splitlines()))
    as_json = json.loads(run("usage", "--json").stdout)
    assert as_csv == [{name: str(value) for name, value in row.items()} for row in as_json]
    assert ["month", "customer", "tier", "requests", "over_quota", "amount"] == list(as_csv[0])
    assert ("acme", "3", "0.3") == (as_csv[1]["customer"], as_csv[1]["over_quota"], as_csv[1]["amount"])


def test_a_tiny_amount_is_written_out() -> None:
    write(PRICED.replace("0.1", "0.000001"))
    count_some("usage.db")
    assert ",0.000003\n" in run("usage", "--csv").output


def test_usage_of_another_month_is_nothing() -> None:
    write(PRICED)
    count_some("usage.db")
    assert "nothing was counted in 1999-12\n" == run("usage", "--month", "1999-12").output
    assert 1 == len(run("usage", "--month", "1999-12", "--csv").output.splitlines())
    assert 2 == run("usage", "--month", "1999-13").exit_code


def test_the_file_can_be_given_without_a_config() -> None:
    result = run("usage", "--db", count_some("elsewhere.db"), "--json")
    assert [0.0, 0.0] == [row["amount"] for row in json.loads(result.stdout)]


def test_a_config_whose_secrets_are_not_here_will_do() -> None:
    write(PRICED.replace("usage_db", 'redis_url = "env:NOT_HERE"\nsecret = "env:NOT_HERE"\nusage_db'))
    count_some("usage.db")
    assert 1 == run("check").exit_code
    assert 0 == run("usage").exit_code


def test_usage_without_a_place_to_keep_it_says_how_to_make_one() -> None:
    result = run("usage", "--config", write("[inbound]\nmax_wait = 5\n"))
    assert 2 == result.exit_code
    assert 'usage_db = "usage.db"' in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--config or --db"),
        (("--db", "none.db"), "No such file"),
        (("--db", "text.db"), "cannot be read as a file of usage"),
        (("--config", "wrong.toml"), "ezthrottle check wrong.toml"),
    ],
)
def test_usage_that_cannot_be_read_is_told_with_the_way_out(arguments: tuple[str, ...], said: str) -> None:
    write("not a database, but long enough to be taken for one" * 20, "text.db")
    write("[inbound]\nmax_wait = -1\n", "wrong.toml")
    result = run("usage", *arguments)
    assert (2, "") == (result.exit_code, result.stdout)
    assert said in result.stderr


# doctor, as far as nobody has to answer


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://localhost/",
        "http://",
        "http://user:swordfish@localhost/",
        "http://localhost/a b",
        "http://localhost/\x1b[2J",
        "http://localhost:99999/",
        "http://localhost:0/",
        "http://[::1/",
        "http://localhost/?q=é",
        "http://" + "a" * 300 + "/",
    ],
)
def test_an_url_that_should_not_be_asked_is_refused(url: str) -> None:
    result = run("doctor", url)
    assert 2 == result.exit_code
    assert "swordfish" not in result.output
    assert "Invalid value for URL" in result.output


def test_the_query_of_an_url_is_not_shown() -> None:
    prober = Prober("https://api.example.com/a%20b/ü?key=swordfish#there", timeout_s=1, budget=1, agent="test")
    assert "https://api.example.com/a%20b/%C3%BC" == prober.shown
    assert prober.is_confidential


def test_a_key_is_sent_where_identify_looks_for_it() -> None:
    assert ("x-api-key", b"k") == key_header("header:x-api-key", b"k")
    assert ("Authorization", b"Bearer k") == key_header("bearer", b"k")
    assert [None, None, None] == [key_header(identify, b"k") for identify in ("ip", "user", "shop:key")]


def test_a_key_that_nobody_knows_how_to_send_is_refused() -> None:
    result = run("doctor", "http://localhost:8000/", "--identify", "user", "--key-from-stdin", input=KEY)
    assert 2 == result.exit_code
    assert KEY not in result.output


def test_a_senseless_identify_is_refused() -> None:
    assert 2 == run("doctor", "http://localhost:8000/", "--identify", "header:x api key").exit_code


# demo


def test_the_demo_names_the_extra_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    result = run("demo")
    assert 2 == result.exit_code
    assert "ezthrottle-provider[demo]" in result.output


@pytest.mark.parametrize("arguments", [("--seconds", "0"), ("--seconds", "1000"), ("--port", "65536")])
def test_the_demo_has_bounds(arguments: tuple[str, ...]) -> None:
    assert 2 == run("demo", *arguments).exit_code
