"""Whose key it is: what `resolve` in ezthrottle.toml names. In a real app this asks the table of accounts."""

from __future__ import annotations

from typing import Final

from ezthrottle_provider import Customer

__all__ = ["customer_of"]

ACCOUNTS: Final = {
    "demo-key-of-ada": Customer("ada", tier="pro"),
    "demo-key-of-bob": Customer("bob", tier="pro"),
    "demo-key-of-cleo": Customer("cleo", tier="free"),
}


async def customer_of(key: str) -> Customer | None:
    """The customer of a key, or None for a key that nobody knows. Answers are remembered for a while."""
    return ACCOUNTS.get(key)
