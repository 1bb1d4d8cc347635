"""A FastAPI app with a fair queue for every customer, and a route that costs ten times as much as it takes.

Start it:   uvicorn --app-dir examples/fastapi_app app:app
Ask it:     curl -i -H 'authorization: Bearer demo-key-of-ada' http://127.0.0.1:8000/items/1
            curl -i -H 'authorization: Bearer demo-key-of-bob' http://127.0.0.1:8000/export

X-EZTHROTTLE-RPS says how fast this customer may go now. While both want more than there is, bob gets one export for ten
items of ada's.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from fastapi import Depends, FastAPI

from starlette_ezthrottle import FairQueueMiddleware, policy

__all__ = ["app"]

app = FastAPI()
app.add_middleware(FairQueueMiddleware, config=Path(__file__).with_name("ezthrottle.toml"))


@app.get("/items/{number}")
async def item(number: int) -> dict[str, int]:
    await asyncio.sleep(0.02)  # what a database would take
    return {"number": number}


@app.get("/export", dependencies=[Depends(policy(cost=10))])
async def export() -> dict[str, int]:
    """Takes no longer than an item here, but keeps the rest of the house busy: hence its cost."""
    await asyncio.sleep(0.02)
    return {"rows": 10_000}
