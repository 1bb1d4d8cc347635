"""Periods are those of the calendar in UTC."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ezthrottle_provider.inbound.periods import CALENDAR_UNITS, Period, period_at

DAY_S = 86_400


def at(*date):
    return datetime(*date, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("moment", "unit", "multiples", "name", "begins", "ends"),
    [
        ((2025, 3, 9, 23, 59, 59), "day", 1, "2025-03-09", (2025, 3, 9), (2025, 3, 10)),
        ((2025, 3, 9, 23, 59, 59), "day", 7, "2025-03-03", (2025, 3, 3), (2025, 3, 10)),  # from Monday
        ((2025, 1, 31), "month", 1, "2025-01", (2025, 1, 1), (2025, 2, 1)),
        ((2025, 12, 31, 23), "month", 1, "2025-12", (2025, 12, 1), (2026, 1, 1)),
        ((2025, 6, 1), "month", 3, "2025-04", (2025, 4, 1), (2025, 7, 1)),
        ((2025, 2, 1), "month", 5, "2025-01", (2025, 1, 1), (2025, 6, 1)),
        ((2024, 12, 31), "year", 1, "2024", (2024, 1, 1), (2025, 1, 1)),
        ((2025, 12, 31), "year", 10, "2020", (2020, 1, 1), (2030, 1, 1)),
        ((2025, 12, 31), "year", 1000, "2000", (2000, 1, 1), (3000, 1, 1)),
    ],
)
def test_a_period_begins_and_ends_where_the_calendar_says(moment, unit, multiples, name, begins, ends):
    assert Period(name, at(*begins), at(*ends)) == period_at(at(*moment), unit, multiples)


@pytest.mark.parametrize(("month", "days"), [((2024, 2), 29), ((2025, 2), 28), ((2100, 2), 28), ((2025, 4), 30)])
def test_a_month_is_as_long_as_it_is(month, days):
    period = period_at(at(*month, 11), "month")

    assert days * DAY_S == period.ends - period.starts


def test_midnight_belongs_to_the_day_that_it_begins():
    midnight = at(2025, 3, 9)

    assert "2025-03-08" == period_at(midnight - 0.001, "day").name
    assert "2025-03-09" == period_at(midnight, "day").name


@given(
    moment=st.floats(at(1970, 1, 1), at(2900, 1, 1)),
    unit=st.sampled_from(CALENDAR_UNITS),
    multiples=st.integers(1, 1000),
)
def test_a_period_holds_its_moment_and_the_next_one_follows_without_a_gap(moment, unit, multiples):
    period = period_at(moment, unit, multiples)

    assert moment in period
    assert period.ends not in period
    assert period == period_at(period.starts, unit, multiples)
    assert period.ends == period_at(period.ends, unit, multiples).starts
