"""``ezthrottle demo``: hands its options to the demonstration, which says itself what is missing for it."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command("demo", short_help="Watch a noisy neighbour being contained.")
@click.option("--serve", is_flag=True, help="Play nothing: keep the demo API up to play with, until Ctrl-C.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="Where --serve listens; 0: any."
)
@click.option("--seconds", type=click.FloatRange(4, 45), default=30.0, show_default=True, help="How long it takes.")
@click.option("--plain", is_flag=True, help="Lines of text instead of a live table.")
@click.pass_context
def command(ctx: click.Context, *, serve: bool, port: int, seconds: float, plain: bool) -> None:
    """Watch one customer flood an API while the others go about their business.

    A real server and real connections, all on this machine, in three acts: no limiter, one shared queue, fair queues.
    It ends with a table of what every customer waited. Needs the extra "demo" of ezthrottle-provider.

    Exit code: 0 the fair queues kept their promise, 1 they did not, 2 it could not run.

    \b
    Examples:
      ezthrottle demo
      ezthrottle demo --seconds 15 --plain
      ezthrottle demo --serve --port 8080
    """
    from ezthrottle_provider.demo import run

    ctx.exit(run(serve=serve, port=port, seconds=seconds, plain=plain))
