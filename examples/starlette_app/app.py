"""A Starlette app with a fair queue for every customer, configured by the file beside it.

Start it:   uvicorn --app-dir examples/starlette_app app:app
Ask it:     curl -i -H 'x-api-key: e66bf550d9593ce6ae363b3b6148b8ab' http://127.0.0.1:8000/report
            curl -i http://127.0.0.1:8000/report        # nobody's key: the unverified callers' share
            curl -iN -H 'x-api-key: 76e1bc8fc714fb1f54cf19ca65492e26' http://127.0.0.1:8000/stream

Look at X-EZTHROTTLE-RPS and X-EZTHROTTLE-MAX-CONCURRENT: how fast this customer may go now.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route

from starlette_ezthrottle import FairQueueMiddleware

__all__ = ["app"]


async def report(request: Request) -> JSONResponse:
    await asyncio.sleep(0.02)  # what a database would take
    return JSONResponse({"rows": 42})


async def stream(request: Request) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(5):
            yield f"line {number}\n"
            await asyncio.sleep(0.2)

    return StreamingResponse(lines(), media_type="text/plain")


async def health(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


app = Starlette(routes=[Route("/report", report), Route("/stream", stream), Route("/health", health)])
app.add_middleware(FairQueueMiddleware, config=Path(__file__).with_name("ezthrottle.toml"))
