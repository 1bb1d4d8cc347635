"""Fair queues for Starlette and FastAPI.

::

    from starlette_ezthrottle import FairQueueMiddleware, policy
    app.add_middleware(FairQueueMiddleware, identify="header:x-api-key", max_concurrent=32)

    @app.get("/export", dependencies=[Depends(policy(cost=10))])

Add it before ``CORSMiddleware``: what is added last is the outermost, and a browser can read a refusal only when the
CORS headers are put on it too.
"""

from __future__ import annotations

from ezthrottle_provider import ASGIFairQueue as FairQueueMiddleware

from .policies import policy

__all__ = ["FairQueueMiddleware", "policy"]
