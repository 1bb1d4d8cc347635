"""Periods of the calendar, in UTC: the day, month or year that a moment belongs to, and when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Final

__all__ = ["CALENDAR_UNITS", "Period", "period_at"]

CALENDAR_UNITS: Final = ("day", "month", "year")

_EPOCH: Final = date(1970, 1, 1).toordinal()
_DAY_S: Final = 86_400
_NAMED: Final = {"year": 4, "month": 7, "day": 10}  # characters of a date


@dataclass(frozen=True, slots=True)
class Period:
    """A stretch of the calendar: ``starts`` <= t < ``ends``, in seconds since 1970 without leap seconds.

    ``name`` is its first day as far as need be: ``2025``, ``2025-03``, ``2025-03-09``.
    """

    name: str
    starts: float
    ends: float

    def __contains__(self, moment: float) -> bool:
        return self.starts <= moment < self.ends


def period_at(moment: float, unit: str, multiples: int = 1) -> Period:
    """Return the period of so many calendar units (of ``CALENDAR_UNITS``) that holds ``moment``.

    Periods of several units are counted from the year 0 (days: from a Monday), so 3 months are a quarter of the year,
    7 days a week from Monday, and 10 years a decade.
    """
    today = datetime.fromtimestamp(moment, UTC)
    if unit == "day":
        first = (today.toordinal() - 1) // multiples * multiples + 1
        last = first + multiples
    else:
        months = multiples * 12 if unit == "year" else multiples
        index = (today.year * 12 + today.month - 1) // months * months
        first, last = _first_of(index), _first_of(index + months)
    name = date.fromordinal(first).isoformat()[: _NAMED[unit]]
    return Period(name, float(first - _EPOCH) * _DAY_S, float(last - _EPOCH) * _DAY_S)


def _first_of(month: int) -> int:
    return date(month // 12, month % 12 + 1, 1).toordinal()
