"""Quotas (temporary)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..config import Tier
    from ..headers import Policy
    from ..scheduling import Caller

__all__ = ["Quotas"]


class Quotas:
    def __init__(self, tiers: Mapping[str, Tier], *, usage_db: str = "") -> None:
        self.active = False

    def update(self, tiers: Mapping[str, Tier]) -> None: ...
    def exhausted(self, caller: Caller) -> float | None:
        return None

    def spend(self, caller: Caller) -> float | None:
        return None

    def policies(self, caller: Caller) -> tuple[Policy, ...]:
        return ()

    def close(self) -> None: ...
