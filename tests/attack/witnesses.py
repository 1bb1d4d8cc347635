"""Everything that a provider says to anybody, in one text, so that a test can look for what must not be in it."""

from __future__ import annotations

import logging

from ezthrottle_provider.instrumentation import LimiterFailed
from ezthrottle_provider.metrics import PrometheusHook
from ezthrottle_provider.testing import RecordingHook

__all__ = ["Witness"]


class Witness(logging.Handler):
    """Listens to a provider and to all logging while it is open (a context manager), and reads everything back."""

    def __init__(self, provider):
        super().__init__(logging.DEBUG)
        self.provider = provider
        self.events = RecordingHook()
        self.metrics = PrometheusHook(snapshot=provider.snapshot)
        provider.hooks.add(self.events)
        provider.hooks.add(self.metrics)
        self._lines = []
        self._formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")

    def emit(self, record):
        """Keep a log line, its traceback included."""
        self._lines.append(self._formatter.format(record))

    def __enter__(self):
        root = logging.getLogger()
        self._level = root.level
        root.addHandler(self)
        root.setLevel(logging.DEBUG)
        return self

    def __exit__(self, *details):
        root = logging.getLogger()
        root.removeHandler(self)
        root.setLevel(self._level)

    @property
    def failures(self):
        """The failures of the limiter itself."""
        return self.events.of(LimiterFailed)

    def said(self, *exchanges):
        """Return all of it: log lines, events, metrics, the snapshot, reprs, and what was added to the responses."""
        provider = self.provider
        scheduler = provider.gate.scheduler
        tickets = [exchange.scope.get("ezthrottle") for exchange in exchanges]
        parts = [
            *self._lines,
            *map(repr, self.events.events),
            self.metrics.render()[0].decode(),
            repr(provider.snapshot()),
            repr(provider),
            repr(provider.directory),
            *(repr(flow) for _, flow in scheduler.customers()),
            *map(repr, tickets),
            *(repr(ticket.caller) for ticket in tickets if ticket is not None),
            *(repr(message) for exchange in exchanges for message in exchange.sent),
        ]
        return "\n".join(parts)
