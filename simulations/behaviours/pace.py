"""Sites that take longer than others, on the virtual clock. Trust zone: the developer's machine."""

from __future__ import annotations

from functools import partial

from numpy.random import Generator

from simulations.behaviour import Behaviour, Sites
from simulations.behaviours.checks import require_within

_MOST = 1e9


def stragglers(sites: Sites, *, times: float, spread: float = 0.0, name: str = "stragglers") -> Behaviour:
    """An answer takes ``times`` as long; with ``spread`` above 0, times a log-normal factor of that deviation too.

    Raises:
        ValueError: ``times`` is not above 0, or ``spread`` is below 0 or above 10.
    """
    require_within(name, "times", times, 1e-9, _MOST)
    require_within(name, "spread", spread, 0, 10)
    says = f"their answers take {times:g} times as long" + (f", give or take (σ {spread:g})" if spread else "")
    return Behaviour(name, says, sites, slows=partial(_straggles, times, spread))


def slow_links(
    sites: Sites, *, up_mbit_s: float, down_mbit_s: float = 0.0, latency_s: float = 0.0, name: str = "slow links"
) -> Behaviour:
    """An answer takes longer by its bytes over the bandwidth up, and by ``latency_s``.

    With ``down_mbit_s`` the model that was fetched for it, as large as the answer, takes its time as well.

    Raises:
        ValueError: a bandwidth or latency that is none.
    """
    require_within(name, "up_mbit_s", up_mbit_s, 1e-9, _MOST)
    require_within(name, "down_mbit_s", down_mbit_s, 0, _MOST)
    require_within(name, "latency_s", latency_s, 0, _MOST)
    seconds_a_byte = sum(8e-6 / rate for rate in (up_mbit_s, down_mbit_s) if rate)
    down = f", {down_mbit_s:g} down" if down_mbit_s else ""
    says = f"their links carry {up_mbit_s:g} Mbit/s up{down}, after {latency_s:g} s"
    return Behaviour(name, says, sites, slows=partial(_carries, seconds_a_byte, latency_s))


def _straggles(times: float, spread: float, seconds: float, size_bytes: int, rng: Generator) -> float:
    return seconds * times * (float(rng.lognormal(0.0, spread)) if spread else 1.0)


def _carries(seconds_a_byte: float, latency_s: float, seconds: float, size_bytes: int, rng: Generator) -> float:
    return seconds + latency_s + size_bytes * seconds_a_byte
