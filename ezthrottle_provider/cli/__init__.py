"""The ``ezthrottle`` command: one module per subcommand, each imported only when it is called.

What a command needs beyond click (rich, the config, a framework) it imports when it runs, so that ``--version`` and
help answer at once. Exit codes are the same everywhere: 0 fine, 1 something was found, 2 it could not be done.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import Final

import click

from ezthrottle_provider import __version__

__all__ = ["main"]

_COMMANDS: Final = MappingProxyType(
    {"check": "check", "demo": "demo", "doctor": "doctor", "hash-key": "keys", "usage": "usage"}
)
"""The module of each command; it holds the command under the name ``command``."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{_COMMANDS[cmd_name]}", __name__).command
        return command


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="ezthrottle", message="%(prog)s %(version)s")
def main() -> None:
    """Fair queues for HTTP APIs: one customer's flood no longer slows the others down.

    \b
    Examples:
      ezthrottle demo                            see a noisy neighbour being contained
      ezthrottle check ezthrottle.toml           every mistake and doubt in a config
      ezthrottle hash-key --generate             a new key, and the hash to list for it
      ezthrottle doctor http://localhost:8000/   look at a running deployment
      ezthrottle usage --month 2026-11           who used how much
    """
