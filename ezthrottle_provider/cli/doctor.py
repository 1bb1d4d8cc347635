"""``ezthrottle doctor``: looks at a running deployment from outside, and prints what each check saw."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Final

import click

from .configs import without_secrets
from .terminal import Output, counted

if TYPE_CHECKING:
    from .findings import Finding

__all__ = ["command"]

_SHOWN: Final = {"ok": "ok", "problem": "problem", "doubt": "doubt", "unknown": "cannot tell"}
_STYLES: Final = {"ok": "green", "problem": "red", "doubt": "yellow", "unknown": "dim"}
_SPARE_S: Final = 5.0
_DEFAULT_IDENTIFY: Final = "header:x-api-key"


@click.command("doctor", short_help="Look at a running deployment from outside.")
@click.argument("url")
@click.option("--config", "file", type=click.Path(), metavar="FILE", help="The config that it should be running.")
@click.option("--identify", metavar="TEXT", help="How keys are sent: bearer or header:NAME; else as the config says.")
@click.option("--key-from-stdin", is_flag=True, help="Read the key of a real customer from standard input.")
@click.option(
    "--timeout", type=click.FloatRange(1, 600), metavar="SECONDS", help="For each answer; default max_wait + 5."
)
@click.option("--strict", is_flag=True, help="Doubts fail like problems.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.pass_context
def command(
    ctx: click.Context,
    *,
    url: str,
    file: str | None,
    identify: str | None,
    key_from_stdin: bool,
    timeout: float | None,
    strict: bool,
    as_json: bool,
) -> None:
    """Look at a running deployment from outside, with at most 25 GET and OPTIONS requests.

    Is the middleware there, are its headers sound, do health checks and CORS preflights pass, does it believe forged
    addresses or made-up keys, is a small burst answered? Give the URL of an ordinary, cheap page of the API, and look
    when the server is idle: what cannot be seen for certain is said to be so.

    Exit code: 0 fine, 1 problems (with --strict also doubts), 2 no answer at all.

    \b
    Examples:
      ezthrottle doctor http://localhost:8000/v1/items
      ezthrottle doctor https://api.example.com/v1/items --config ezthrottle.toml
      ezthrottle doctor https://api.example.com/v1/items --key-from-stdin < key.txt
    """
    from ezthrottle_provider import __version__

    from .findings import BUDGET, Doctor, key_header
    from .probes import Prober

    config = without_secrets(file) if file is not None else None
    identify = _checked(identify or (config.identify if config is not None else _DEFAULT_IDENTIFY))
    key = None
    if key_from_stdin:
        from .keys import read_key

        key = key_header(identify, read_key())
        if key is None:
            raise click.UsageError(f"identify is {identify}: there is no telling how to send a key; leave it out.")
    timeout_s = timeout or (config.max_wait if config is not None else 10.0) + _SPARE_S
    try:
        prober = Prober(url, timeout_s=timeout_s, budget=BUDGET, agent=f"ezthrottle-doctor/{__version__}")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="URL") from None
    if key is not None and not prober.is_confidential:
        click.echo("The key will travel unencrypted: the URL is not https.", err=True)

    out = Output()
    if not as_json:
        out.line(prober.shown, "bold")
    findings: list[Finding] = []
    for finding in Doctor(prober, config=config, identify=identify, key=key).findings():
        findings.append(finding)
        if not as_json:
            cells = [_SHOWN[finding.verdict], finding.check, finding.text]
            out.row(cells, widths=[11, 12], styles=[_STYLES[finding.verdict], "bold"])
    counts = Counter(finding.verdict for finding in findings)
    if as_json:
        shown = [{"check": it.check, "verdict": it.verdict, "text": it.text} for it in findings]
        click.echo(json.dumps({"url": prober.shown, "requests": prober.sent, "findings": shown}, indent=2))
    else:
        tally = f"{counted(counts['problem'], 'problem')}, {counted(counts['doubt'], 'doubt')}"
        out.line()
        out.line(f"{tally} ({prober.sent} requests)")
    if len(findings) == 1:
        ctx.exit(2)
    ctx.exit(1 if counts["problem"] or (strict and counts["doubt"]) else 0)


def _checked(identify: str) -> str:
    from ezthrottle_provider.config import InboundConfig
    from ezthrottle_provider.errors import ConfigError

    try:
        return InboundConfig(identify=identify).identify
    except ConfigError as error:
        raise click.BadParameter(error.problems[0].message, param_hint="--identify") from None
