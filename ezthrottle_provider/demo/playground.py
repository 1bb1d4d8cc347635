"""``ezthrottle demo --serve``: the demo API behind fair queues, to be asked by hand."""

from __future__ import annotations

import subprocess
from typing import Final

from rich.console import Console

from .acts import FAIR, DemoError, listen, serve
from .cast import FLOOD, QUIET, SLOTS, TIERS

__all__ = ["playground"]

_AT_MOST_S: Final = 3600.0


def playground(console: Console, *, port: int) -> int:
    """Serve until ctrl-C (0), or for an hour; 1 when the API ended by itself. Raises ``DemoError``."""
    listening = listen(port)
    port = listening.getsockname()[1]
    with serve(FAIR.limiter, listening, at_most_s=_AT_MOST_S + 60.0) as api:
        console.print(_guide(f"http://127.0.0.1:{port}"), soft_wrap=True, markup=False)
        try:
            api.wait(timeout_s=_AT_MOST_S)
        except subprocess.TimeoutExpired:
            console.print("An hour is over: stopped.")
        except KeyboardInterrupt:
            console.print("\nStopped.")
        else:
            raise DemoError(f"The demo API ended by itself:\n{api.last_words()}")
    return 0


def _guide(url: str) -> str:
    quiet, paying = QUIET[0], QUIET[-1]
    tiers = ", ".join(f"{name} (weight {terms['weight']})" for name, terms in TIERS.items())
    return f"""\
The demo API is up at {url} with fair queues for {SLOTS} slots.
Tiers: {tiers}. Ctrl-C stops it. From another terminal:

1. Ask as a quiet customer ({quiet.tier}), and look at the headers:

     curl -i -H 'x-api-key: {quiet.key}' {url}/report

   X-EZTHROTTLE-RPS              requests/s that this customer may send now
   X-EZTHROTTLE-MAX-CONCURRENT   how many of them at once
   RateLimit-Policy, RateLimit   the same for clients that read the IETF draft

2. Flood it for some seconds; the output counts the answers by status:

     curl -sZ --parallel-max 100 -o /dev/null -w '%{{http_code}}\\n' \\
       -H 'x-api-key: {FLOOD.key}' '{url}/report?n=[1-5000]' \\
       2>/dev/null | sort | uniq -c

3. Meanwhile ask again: it takes hardly longer, and RPS is now your share.

     curl -s -o /dev/null -w '%{{time_total}} s\\n' \\
       -H 'x-api-key: {quiet.key}' {url}/report
     curl -i -H 'x-api-key: {paying.key}' {url}/report    # {paying.tier}: a larger share

4. One key may have 100 requests waiting. Ask 150 times at once, and some are
   refused: look at the status, Retry-After, and the body, which says why.

     curl -siZ --parallel-max 150 -H 'x-api-key: {FLOOD.key}' \\
       '{url}/report?n=[1-150]' 2>/dev/null | grep -a -m1 -A13 ' 429 '
"""
