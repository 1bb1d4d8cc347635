"""The ledger: what is counted reaches the file once, whatever happens to the file or to the process."""

from __future__ import annotations

import logging
import os
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from contextlib import closing
from datetime import UTC, datetime

import pytest

from ezthrottle_provider.inbound import usage
from ezthrottle_provider.inbound.usage import Ledger, UsageRow, Used, read_usage
from ezthrottle_provider.testing import FakeClock

MARCH_9 = datetime(2025, 3, 9, 12, tzinfo=UTC).timestamp()
APRIL_1 = datetime(2025, 4, 1, tzinfo=UTC).timestamp()


def row(customer="id:a", requests=1, *, month="2025-03", tier="pro", over_quota=0, amount=0.0):
    return UsageRow(month=month, customer=customer, tier=tier, requests=requests, over_quota=over_quota, amount=amount)


def counting(ledger, customer="id:a", requests=1, **options):
    for _ in range(requests):
        ledger.count(customer, "pro", **options)
    return ledger


def run(script, *args):
    """Run a script in a process of its own; return what it printed."""
    prelude = "import sys\nfrom ezthrottle_provider.inbound.usage import Ledger, read_usage\n"
    command = [sys.executable, "-c", prelude + textwrap.dedent(script), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout


# In memory


def test_without_a_file_the_ledger_holds_the_current_month():
    clock = FakeClock(APRIL_1 - 1.0)
    ledger = counting(Ledger(clock=clock), requests=3)
    counting(ledger, "id:b", over_quota=True)

    assert [row(requests=3), row("id:b", over_quota=1, amount=0.5)] == ledger.rows(prices={"pro": 0.5})

    clock.advance(1.0)
    counting(ledger)

    assert [row(month="2025-04")] == ledger.rows()


def test_a_customer_that_changes_its_tier_has_a_row_for_each_price():
    ledger = counting(Ledger(clock=FakeClock(MARCH_9)))
    ledger.count("id:a", "free", over_quota=True)

    assert [row(tier="free", over_quota=1), row()] == ledger.rows()


def test_customers_beyond_the_bound_are_counted_together_so_that_nothing_is_lost(monkeypatch):
    monkeypatch.setattr(usage, "_MOST", 3)
    ledger = Ledger(clock=FakeClock(MARCH_9))
    for number in range(10):
        counting(ledger, f"id:{number}", requests=2, over_quota=True)

    assert [row("*", 14, over_quota=14), *(row(f"id:{n}", 2, over_quota=2) for n in range(3))] == ledger.rows()


def test_an_amount_is_reckoned_in_decimals():
    ledger = counting(Ledger(clock=FakeClock(MARCH_9)), requests=3, over_quota=True)

    assert [0.3] == [counted.amount for counted in ledger.rows(prices={"pro": 0.1})]
    assert 0.3 != 3 * 0.1  # what binary fractions would make of it


# The file


def test_what_was_counted_is_in_the_file_once_the_ledger_is_closed(tmp_path):
    path = tmp_path / "usage.db"
    clock = FakeClock(APRIL_1 - 1.0)
    ledger = counting(Ledger(str(path), clock=clock), requests=3)
    clock.advance(1.0)
    counting(ledger, requests=2, over_quota=True)
    ledger.close()
    ledger.close()

    assert [row(requests=3), row(month="2025-04", requests=2, over_quota=2)] == read_usage(path)
    assert [row(requests=3)] == read_usage(path, month="2025-03")
    assert [] == read_usage(path, month="2025-05")
    assert [0.0, 0.001] == [counted.amount for counted in read_usage(path, prices={"pro": 0.0005})]
    assert [] == ledger.rows()


def test_counting_goes_on_after_a_close(tmp_path):
    path = tmp_path / "usage.db"
    ledger = counting(Ledger(str(path), clock=FakeClock(MARCH_9)))
    ledger.close()
    counting(ledger)
    ledger.close()

    assert [row(requests=2)] == read_usage(path)


def test_the_writer_writes_by_itself_and_starts_with_the_first_request(tmp_path):
    path = tmp_path / "usage.db"
    written = threading.Event()
    before = set(threading.enumerate())  # other ledgers of this process may have theirs
    ledger = Ledger(str(path), restore=lambda counts: written.set(), clock=FakeClock(MARCH_9), interval_s=0.001)
    assert set(threading.enumerate()) <= before
    counting(ledger)
    (writer,) = set(threading.enumerate()) - before
    assert writer.name == "ezthrottle-usage"

    assert written.wait(10.0)
    assert [row()] == read_usage(path)
    ledger.close()
    assert not writer.is_alive()


def test_the_file_is_its_owners_alone_and_one_that_is_there_keeps_its_permissions(tmp_path):
    ours, theirs = tmp_path / "ours.db", tmp_path / "theirs.db"
    theirs.touch()
    theirs.chmod(0o640)
    for path in (ours, theirs):
        counting(Ledger(str(path), clock=FakeClock(MARCH_9))).close()

    assert [0o600, 0o640] == [stat.S_IMODE(path.stat().st_mode) for path in (ours, theirs)]
    assert ["ours.db", "theirs.db"] == sorted(path.name for path in tmp_path.iterdir())


def test_the_file_is_never_in_wal_mode(tmp_path):
    path = tmp_path / "usage.db"
    counting(Ledger(str(path), clock=FakeClock(MARCH_9))).close()

    with closing(sqlite3.connect(path)) as db:
        assert ("delete",) == db.execute("PRAGMA journal_mode").fetchone()


def test_a_path_means_the_same_file_in_every_directory_and_may_hold_any_character(tmp_path, monkeypatch):
    (tmp_path / "later").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in (":memory:", "a?b#c%20d.db"):
        ledger = counting(Ledger(name, clock=FakeClock(MARCH_9)))
        monkeypatch.chdir(tmp_path / "later")
        ledger.close()
        monkeypatch.chdir(tmp_path)

        assert [row()] == read_usage(name)


@pytest.mark.slow
def test_two_processes_add_to_one_file(tmp_path):
    path = tmp_path / "usage.db"
    count = """
        ledger = Ledger(sys.argv[1], clock=lambda: float(sys.argv[2]))
        for _ in range(5):
            for _ in range(200):
                ledger.count("id:a", "pro")
            ledger.flush()
        ledger.close()
        print(len(ledger.rows()))
    """
    threads = [threading.Thread(target=run, args=(count, path, MARCH_9)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [row(requests=2000)] == read_usage(path)


# What a restart should know


def test_counts_of_periods_that_go_on_are_restored_once_and_before_anything_is_added(tmp_path):
    path = str(tmp_path / "usage.db")
    before = Ledger(path, clock=FakeClock(MARCH_9))
    counting(before, requests=3, period="1 month from 2025-03", ends=APRIL_1)
    counting(before, requests=2, period="1 day from 2025-03-09", ends=MARCH_9 + 60.0)
    counting(before, requests=9)
    before.close()

    restored = []
    after = Ledger(path, restore=restored.append, clock=FakeClock(MARCH_9 + 60.0))
    counting(after, period="1 month from 2025-03", ends=APRIL_1)
    after.flush()
    after.flush()

    assert [[Used("id:a", "1 month from 2025-03", APRIL_1, 3)]] == restored
    after.close()


def test_counts_of_past_periods_leave_the_file_and_what_was_used_stays(tmp_path):
    path = tmp_path / "usage.db"
    clock = FakeClock(MARCH_9)
    ledger = counting(Ledger(str(path), clock=clock), period="1 month from 2025-03", ends=APRIL_1)
    ledger.flush()
    clock.advance(APRIL_1 - MARCH_9)
    counting(ledger, "id:b").close()

    with closing(sqlite3.connect(path)) as db:
        assert [] == db.execute("SELECT * FROM ezthrottle_quotas").fetchall()
    assert [row(), row("id:b", month="2025-04")] == read_usage(path)


def test_what_a_restart_should_know_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "_MOST", 3)
    path = str(tmp_path / "usage.db")
    ledger = Ledger(path, clock=FakeClock(MARCH_9))
    for number in range(10):
        counting(ledger, f"id:{number}", requests=1 + number % 4, period="p", ends=APRIL_1)
    ledger.flush()
    for number in range(10, 13):
        counting(ledger, f"id:{number}", requests=1 + number, period="p", ends=APRIL_1)
    ledger.close()
    restored = []
    Ledger(path, restore=restored.extend, clock=FakeClock(MARCH_9)).flush()

    assert ["id:12", "id:11", "id:10"] == [used.account for used in restored]


# Files that cannot be used


def missing_folder(path):
    path.parent.rmdir()
    return path.parent.mkdir


def no_database(path):
    path.write_bytes(b"no database, but long enough that it might be one " * 100)
    return path.unlink


def somebody_elses_table(path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE ezthrottle_usage (something TEXT)")
    return path.unlink


def locked(path):
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    return db.close


@pytest.mark.parametrize("spoil", [missing_folder, no_database, somebody_elses_table, locked])
def test_a_file_that_cannot_be_used_costs_one_line_in_the_log_and_no_count(tmp_path, monkeypatch, caplog, spoil):
    monkeypatch.setattr(usage, "_BUSY_S", 0.0)
    caplog.set_level(logging.WARNING)
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "usage.db"
    restored = []
    mend = spoil(path)
    ledger = Ledger(str(path), restore=restored.append, clock=FakeClock(MARCH_9))
    for _ in range(3):
        counting(ledger, over_quota=True, period="p", ends=APRIL_1)
        ledger.flush()

    assert [row(requests=3, over_quota=3)] == ledger.rows()
    assert 1 == len(caplog.messages)
    assert caplog.messages[0].startswith(f"usage is kept in memory until {path} can be written: ")
    assert [] == restored

    mend()
    ledger.close()

    assert [row(requests=3, over_quota=3)] == read_usage(path)
    assert f"usage is written to {path} again" == caplog.messages[1]
    assert [[]] == restored


def test_a_full_disk_costs_no_count(tmp_path):
    path = tmp_path / "usage.db"
    fill = """
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        ledger = Ledger(sys.argv[1], clock=lambda: float(sys.argv[2]))
        ledger.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        for number in range(2000):
            ledger.count(f"id:{number}", "pro", period="p", ends=float(sys.argv[2]) + 60.0)
        ledger.flush()
        print(len(ledger.rows()), len(read_usage(sys.argv[1])))
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        ledger.close()
        print(len(ledger.rows()), len(read_usage(sys.argv[1])))
    """

    assert ["2000 0", "0 2000"] == run(fill, path, MARCH_9).splitlines()


def test_counts_that_wait_for_the_file_stay_within_the_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "_MOST", 3)
    path = tmp_path / "folder" / "usage.db"
    ledger = Ledger(str(path), clock=FakeClock(MARCH_9))
    for number in range(20):
        counting(ledger, f"id:{number}", period="p", ends=APRIL_1)
        ledger.flush()

    assert 4 == len(ledger.rows())
    path.parent.mkdir()
    ledger.close()
    assert 20 == sum(counted.requests for counted in read_usage(path))


# Reading


@pytest.mark.parametrize("month", ["2025", "2025-3", "2025-13", "2025-W10", "2025-03-01", "", "march"])
def test_a_month_that_is_none_is_a_mistake_and_no_empty_report(tmp_path, month):
    with pytest.raises(ValueError, match="a month is written like 2025-03"):
        read_usage(tmp_path / "usage.db", month=month)


def test_a_file_that_is_not_there_is_not_created_by_reading(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"usage\.db"):
        read_usage(tmp_path / "usage.db")

    assert [] == list(tmp_path.iterdir())


def test_a_file_that_is_no_ledger_is_told_from_an_empty_one(tmp_path):
    Ledger(str(tmp_path / "empty.db"), clock=FakeClock(MARCH_9)).flush()
    no_database(tmp_path / "other.db")

    assert [] == read_usage(tmp_path / "empty.db")
    with pytest.raises(sqlite3.Error):
        read_usage(tmp_path / "other.db")


def test_a_report_can_be_read_after_its_writer_crashed_in_a_transaction(tmp_path):
    path = tmp_path / "usage.db"
    counting(Ledger(str(path), clock=FakeClock(MARCH_9))).close()
    crash = """
        import os, sqlite3
        db = sqlite3.connect(sys.argv[1], isolation_level=None)
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN IMMEDIATE")
        db.executemany(
            "INSERT INTO ezthrottle_usage VALUES ('2025-03', ?, 'pro', 1, 0)", ((str(n),) for n in range(5000))
        )
        print(os.path.getsize(sys.argv[1]), flush=True)
        os._exit(0)
    """
    size = int(run(crash, path))

    assert size > 100_000  # the control: half of the transaction is in the file
    assert os.path.exists(f"{path}-journal")  # noqa: PTH110 - one name after the other
    assert [row()] == read_usage(path)
