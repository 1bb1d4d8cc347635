"""The table: one row for each customer, one column for each act, so that the eye compares along a row."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

from .acts import ACTS, ALONE, Act, Tally
from .cast import QUIET, ROLES, Role
from .verdict import TOLERATED, times

__all__ = ["latency", "results"]


def results(tallies: Mapping[Act, Tally]) -> Table:
    """Draw what is known so far of each act; as high and as wide as fits a terminal of 80 columns and 24 rows."""
    title = "Answer times in ms: p50 / p99 (half / 99 of 100 were faster)"
    table = Table(title=title, title_style="bold", box=box.SIMPLE, show_edge=False)
    table.add_column("\nCustomer", min_width=16)
    for act in ACTS:
        table.add_column(f"{act.label}\n{act.title}", justify="right", min_width=12)
    for role in ROLES:
        asks = f"{role.per_s:.0f} requests/s" if role.quiet else f"{role.connections} connections"
        cells = (_cell(tallies.get(act), role, tallies.get(ALONE)) for act in ACTS)
        table.add_row(Text.assemble((role.name, "bold"), f" ({role.tier})\n", (asks, "dim")), *cells)
        if role is QUIET[-1]:
            table.add_section()
    table.add_section()
    table.add_row(
        Text.assemble((f"The {len(QUIET)} quiet ones", "bold"), "\np99 against alone\nrefused"),
        *(_summary(tallies.get(act), tallies.get(ALONE)) for act in ACTS),
    )
    return table


def latency(tally: Tally, *roles: Role) -> str:
    """Write p50 and p99 of these roles in milliseconds."""
    half, most = tally.percentile(0.5, *roles), tally.percentile(0.99, *roles)
    return "-" if half is None or most is None else f"{half:.0f} / {most:.0f}"


def _cell(tally: Tally | None, role: Role, alone: Tally | None) -> Text:
    if tally is None or not tally.asked(role):
        return Text("-", style="dim")
    alone_ms = None if alone is None else alone.percentile(0.99, role)
    style = _style(tally, alone, tally.percentile(0.99, role), alone_ms)
    cell = Text.assemble((latency(tally, role), style), (f"\n{tally.served_per_s(role):.0f}/s served", "dim"))
    for counted, what in ((tally.refused, "refused"), (tally.unanswered, "not answered")):
        if counted[role.name]:
            cell.append(f"\n{counted[role.name]} {what}", style="yellow")
    return cell


def _summary(tally: Tally | None, alone: Tally | None) -> Text:
    if tally is None or alone is None or not tally.quiet_asked or not alone.quiet_asked:
        return Text("-", style="dim")
    style = _style(tally, alone, tally.quiet_p99_ms, alone.quiet_p99_ms)
    return Text.assemble((f"{latency(tally, *QUIET)}\n{times(tally, alone)}", style), f"\n{tally.quiet_refused}")


def _style(tally: Tally, alone: Tally | None, now_ms: float | None, alone_ms: float | None) -> str:
    """Green or red, where there is something to compare with."""
    if tally is alone or now_ms is None or alone_ms is None:
        return ""
    return "bold green" if now_ms <= TOLERATED * alone_ms else "bold red"
