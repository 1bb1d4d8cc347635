"""Minting identities gains nothing: neither many keys at one address, nor many addresses.

All figures are slot-seconds over 60 s of simulated time, with the scheduler's own bounds on queues and waits.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ezthrottle_provider.scheduling import Scheduler

from .controls import SharedFifo
from .simulator import Policy, Simulator
from .workloads import Client, Source, lognormal

pytestmark = pytest.mark.slow

_MEAN_S = 0.01
_HANDLER = lognormal(_MEAN_S, 0.5)
_SLOTS = 8
_WINDOW_S = 60.0
_CONTROL_S = 10.0  # what is far from fair shows sooner
# A window cuts the requests that are in service when it begins and ends: what it shows is blurred by one per slot.
_BLUR = _MEAN_S / _WINDOW_S
_HONEST = tuple(
    Client(customer=f"ip:honest{number}", service=_HANDLER, threads=16, verified=False) for number in range(9)
)
_VERIFIED = Client(customer="verified", service=_HANDLER, threads=32)


def simulate(
    policy: Policy, sources: Iterable[Source], *, seconds: float = _WINDOW_S
) -> tuple[Simulator, dict[str, float]]:
    """Run the sources; return the slot-seconds of each customer after the first five seconds."""
    simulator = Simulator(policy, slots=_SLOTS, seed=11)
    for source in sources:
        simulator.add(source)
    simulator.run(5.0)
    before = simulator.usage()
    simulator.run(5.0 + seconds)
    return simulator, {name: used.since(before[name]).slot_s for name, used in simulator.usage().items()}


def forger(*, fresh: bool) -> Client:
    return Client(
        customer="ip:forger", service=_HANDLER, threads=1000, verified=False, keys=1000, fresh_keys=fresh, retry_s=0.1
    )


def gain_of_the_forger(policy: Policy, *, fresh: bool = False, seconds: float = _WINDOW_S) -> float:
    _, used = simulate(policy, (*_HONEST, forger(fresh=fresh)), seconds=seconds)
    return used["ip:forger"] / (sum(used[honest.customer] for honest in _HONEST) / len(_HONEST))


def crowd(*, verified: bool = False) -> list[Client]:
    return [
        Client(customer=f"ip:crowd{number}", service=_HANDLER, threads=1, verified=verified) for number in range(1000)
    ]


def crowd_of_a_second(*, seconds: int = 65) -> list[Client]:
    return [
        Client(
            customer=f"ip:crowd{second}.{number}",
            service=_HANDLER,
            threads=1,
            verified=False,
            start_s=float(second),
            stop_s=second + 1.0,
        )
        for second in range(seconds)
        for number in range(1000)
    ]


def part_of_the_crowd(policy: Policy, strangers: list[Client], *, seconds: float = _WINDOW_S) -> tuple[float, int]:
    """Return what the crowd got of all that was used, and how often the verified customer was refused."""
    simulator, used = simulate(policy, (_VERIFIED, *strangers), seconds=seconds)
    refused = sum(simulator.accounts["verified"].refused.values())
    return (sum(used.values()) - used["verified"]) / sum(used.values()), refused


@pytest.mark.parametrize("fresh", [False, True], ids=["a thousand keys", "a fresh key for each request"])
def test_a_thousand_forged_keys_gain_one_address_nothing(fresh: bool) -> None:
    assert gain_of_the_forger(Scheduler(slots=_SLOTS), fresh=fresh) <= 1.02


def test_a_forger_gains_where_all_share_one_queue() -> None:
    assert gain_of_the_forger(SharedFifo(slots=_SLOTS), seconds=_CONTROL_S) > 10.0


def test_a_forger_gains_where_each_key_is_a_customer() -> None:
    identities = [
        Client(customer=f"key{number}", service=_HANDLER, threads=1, verified=False) for number in range(1000)
    ]
    _, used = simulate(Scheduler(slots=_SLOTS), (*_HONEST, *identities), seconds=_CONTROL_S)
    honest = sum(used[client.customer] for client in _HONEST) / len(_HONEST)
    assert sum(used[client.customer] for client in identities) / honest > 100.0


@pytest.mark.parametrize("share", [0.1, 0.2])
def test_a_thousand_addresses_get_the_unverified_share_together(share: float) -> None:
    part, refused = part_of_the_crowd(Scheduler(slots=_SLOTS, unverified_share=share), crowd())
    assert part <= share + _BLUR
    assert 0 == refused


def test_a_thousand_fresh_addresses_each_second_get_the_unverified_share_together() -> None:
    part, refused = part_of_the_crowd(Scheduler(slots=_SLOTS), crowd_of_a_second())
    assert part <= 0.2 + _BLUR
    assert 0 == refused


def test_a_thousand_addresses_drown_a_verified_customer_without_the_unverified_share() -> None:
    part, _ = part_of_the_crowd(Scheduler(slots=_SLOTS, unverified_share=1.0), crowd(), seconds=_CONTROL_S)
    assert part > 0.9


def test_a_thousand_verified_customers_are_owed_their_shares() -> None:
    part, _ = part_of_the_crowd(Scheduler(slots=_SLOTS), crowd(verified=True), seconds=_CONTROL_S)
    assert part > 0.9


def test_the_crowd_gets_all_slots_while_nobody_verified_asks() -> None:
    _, used = simulate(Scheduler(slots=_SLOTS), crowd(), seconds=_CONTROL_S)
    assert _CONTROL_S * _SLOTS == pytest.approx(sum(used.values()))
