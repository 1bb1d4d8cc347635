"""What every test may use: a port, and one way of running hypothesis."""

from __future__ import annotations

import os
import socket

import pytest
from hypothesis import HealthCheck, settings

# Examples run on shared machines, where a single slow one says nothing: no deadline. In CI the same examples every
# time, so that a red run is about the change; elsewhere new ones every time, which is how bugs are found.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.register_profile("thorough", deadline=None, max_examples=5_000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


@pytest.fixture
def free_port() -> int:
    """A loopback port that nobody listens on. For servers that take no socket: who can hand one over should."""
    with socket.socket() as probe:
        # A server sets the same option, so a connection of the last test in TIME_WAIT does not matter to either.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
