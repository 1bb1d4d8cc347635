"""Fair queues for HTTP APIs, in both directions.

``ASGIFairQueue`` gives every customer of an API a queue of its own; a weighted deficit-round-robin scheduler decides
whose request runs next, so that one customer's flood never slows another. Start with the README, or with
``ezthrottle demo``. How it works is told in ``ezthrottle_provider.scheduling`` (the theory) and
``ezthrottle_provider.inbound`` (a request's journey).
"""

from __future__ import annotations

from .customers import Customer
from .errors import ConfigError, EZThrottleError
from .inbound.asgi import ASGIFairQueue
from .inbound.nested import nested_headers
from .inbound.provider import Provider

__version__ = "0.1.0"

__all__ = [
    "ASGIFairQueue",
    "ConfigError",
    "Customer",
    "EZThrottleError",
    "Provider",
    "__version__",
    "nested_headers",
]
