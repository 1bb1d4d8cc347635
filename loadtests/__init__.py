"""Benchmarks, fault runs and the locust scenario; each is a script of its own (``run_all`` runs them in a row)."""

from __future__ import annotations

__all__: list[str] = []
