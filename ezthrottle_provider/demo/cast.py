"""Who takes part: the customers of the demo API, what each has paid for and how it behaves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["FLOOD", "IMPORTER", "QUIET", "ROLES", "SLOTS", "TIERS", "Role"]

SLOTS: Final = 8
"""What the database behind the demo API can do at once, and so the slots of both limiters."""

TIERS: Final = {"free": {"weight": 1}, "pro": {"weight": 4}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A customer: either ``per_s`` requests on a fixed schedule, or ``connections`` that never pause."""

    name: str
    tier: str
    per_s: float = 0.0
    connections: int = 0

    @property
    def quiet(self) -> bool:
        """Whether it keeps to a schedule, whatever the API does."""
        return not self.connections

    @property
    def key(self) -> str:
        """The API key that it presents."""
        return f"demo-{self.name}"


# 20 requests/s are a twentieth of what the database can do, and less than the smallest share that anybody is owed here.
QUIET: Final = (
    Role(name="anna", tier="free", per_s=20.0),
    Role(name="ben", tier="free", per_s=20.0),
    Role(name="carla", tier="pro", per_s=20.0),
)
# More connections than the 100 requests that one key may have waiting by default: some of the flood is refused.
FLOOD: Final = Role(name="scraper", tier="free", connections=128)
# Backlogged too, so that the weights can be seen: it has paid for four times the scraper's share.
IMPORTER: Final = Role(name="importer", tier="pro", connections=32)

ROLES: Final = (*QUIET, IMPORTER, FLOOD)
