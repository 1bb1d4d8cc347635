"""What people and programs see: columns that fit a terminal's width, and plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CommandError", "Output", "counted", "one_line"]

_GAP: Final = 2


class CommandError(click.ClickException):
    """The command cannot do what it was asked to do: told on standard error, with exit code 2."""

    exit_code = 2


def one_line(text: str) -> str:
    """The text without control characters: what a server or a file says may neither end a line nor drive a terminal."""
    return text if text.isprintable() else "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def counted(number: int, noun: str) -> str:
    """``"no doubts"``, ``"1 doubt"``, ``"2 doubts"``."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


class Output:
    """Standard output. Colour only on a terminal and without ``NO_COLOR``; a line is wrapped only on a terminal."""

    def __init__(self) -> None:
        from rich.console import Console  # takes longer to import than --version takes

        self._console: Console = Console(highlight=False, markup=False, emoji=False)

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks at it, as far as can be known."""
        return self._console.is_terminal

    def line(self, text: str = "", style: str = "") -> None:
        """Print one line, or what becomes of it on a narrow terminal."""
        self._console.print(one_line(text), style=style, soft_wrap=not self.is_terminal)

    def row(self, cells: Sequence[str], *, widths: Sequence[int], styles: Sequence[str] = ()) -> None:
        """Print one row as soon as it is known: all columns but the last have a width, the last has the rest.

        On a terminal a cell that is too long goes on below itself; elsewhere it pushes the others aside, so that each
        row stays one line for ``grep``.
        """
        cells = [one_line(cell) for cell in cells]
        if not self.is_terminal:
            padded = [cell.ljust(width) for cell, width in zip(cells, widths, strict=False)]
            self._console.print((" " * _GAP).join([*padded, cells[-1]]).rstrip(), soft_wrap=True)
            return
        from rich.table import Table

        grid = Table.grid(padding=(0, _GAP, 0, 0), expand=True)
        for place in range(len(cells)):
            style = styles[place] if place < len(styles) else ""
            width = widths[place] if place < len(widths) else None
            grid.add_column(style=style, width=width, ratio=1 if width is None else None, overflow="fold")
        grid.add_row(*cells)
        self._console.print(grid)

    def table(self, names: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int) -> None:
        """Print a whole table, the last ``numbers`` columns to the right; the last row is a total."""
        rows = [[one_line(cell) for cell in row] for row in rows]
        first_number = len(names) - numbers
        if not self.is_terminal:
            widths = [max(len(row[place]) for row in (names, *rows)) for place in range(len(names))]
            for row in (names, *rows):
                cells = zip(row, widths, strict=True)
                padded = [
                    cell.rjust(width) if place >= first_number else cell.ljust(width)
                    for place, (cell, width) in enumerate(cells)
                ]
                self._console.print((" " * _GAP).join(padded).rstrip(), soft_wrap=True)
            return
        from rich.table import Table

        table = Table(box=None, padding=(0, _GAP, 0, 0), header_style="bold")
        for place, name in enumerate(names):
            table.add_column(name, justify="right" if place >= first_number else "left", overflow="fold")
        for place, row in enumerate(rows):
            table.add_row(*row, style="bold" if place == len(rows) - 1 else "")
        self._console.print(table)
