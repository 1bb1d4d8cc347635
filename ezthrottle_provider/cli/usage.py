"""``ezthrottle usage``: who used how much, from the file in which the app counts it."""

from __future__ import annotations

import csv
import dataclasses
import json
import sqlite3
import sys
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import click

from .configs import config_file, without_secrets
from .terminal import CommandError, Output

if TYPE_CHECKING:
    from ezthrottle_provider.inbound.usage import UsageRow

__all__ = ["command"]

_COLUMNS: Final = ("month", "customer", "tier", "requests", "over_quota", "amount")
_NUMBERS: Final = 3  # columns at the end that are numbers

_NO_FILE: Final = """\
nothing is kept: the config sets no usage_db, so the app counts in memory only. Add to it

  [inbound]
  usage_db = "usage.db"

and restart the app; what is counted from then on is shown here."""


@click.command("usage", short_help="What each customer used.")
@click.option("--csv", "form", flag_value="csv", help="Comma-separated values, for a spreadsheet or an invoice.")
@click.option("--json", "form", flag_value="json", help="One JSON document.")
@click.option("--month", metavar="YYYY-MM", help="Only this month (UTC); otherwise all that are kept.")
@click.option(
    "--config", "named", type=click.Path(), metavar="FILE", help="The config that names the file and the prices."
)
@click.option("--db", type=click.Path(), metavar="PATH", help="The file itself, whatever the config says.")
def command(*, form: str | None, month: str | None, named: str | None, db: str | None) -> None:
    """Print what each customer used: requests, those over its quota, and what they cost.

    Read from usage_db of the config, while the app runs or not; the app adds to it every 5 seconds. Prices are the
    overage_price of the tiers as they are now.

    \b
    Examples:
      ezthrottle usage --month 2026-11
      ezthrottle usage --csv > usage.csv
      ezthrottle usage --db /var/lib/api/usage.db --config ezthrottle.toml
    """
    from ezthrottle_provider.inbound.usage import read_usage

    file = config_file(named)
    config = without_secrets(file) if file is not None else None
    if config is None and db is None:
        raise click.UsageError(
            "there is no ezthrottle.toml here, and EZTHROTTLE_CONFIG is not set: give --config or --db."
        )
    path = db or (config.usage_db if config is not None else "")
    if not path:
        raise CommandError(_NO_FILE)
    prices = {} if config is None else {name: tier.overage_price for name, tier in config.tiers.items()}
    try:
        rows = read_usage(path, month=month, prices=prices)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--month") from None
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}. Has the app run, in this directory?") from None
    except sqlite3.Error as error:
        raise CommandError(f"{path} cannot be read as a file of usage: {error}") from None
    if form == "json":
        click.echo(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(_cells(row) for row in rows)
    elif rows:
        _print_table(rows)
    else:
        Output().line(f"nothing was counted{f' in {month}' if month else ''}")


def _cells(row: UsageRow) -> tuple[str, ...]:
    # An amount is read by people and by spreadsheets: never 1e-05.
    return (
        row.month,
        row.customer,
        row.tier,
        str(row.requests),
        str(row.over_quota),
        _plain(Decimal(repr(row.amount))),
    )


def _plain(amount: Decimal) -> str:
    return f"{amount:f}"


def _print_table(rows: Sequence[UsageRow]) -> None:
    requests, over_quota = sum(row.requests for row in rows), sum(row.over_quota for row in rows)
    amount = sum((Decimal(repr(row.amount)) for row in rows), Decimal())
    total = ("total", "", "", str(requests), str(over_quota), _plain(amount))
    names = [name.replace("_", " ") for name in _COLUMNS]
    Output().table(names, [*map(_cells, rows), total], numbers=_NUMBERS)
