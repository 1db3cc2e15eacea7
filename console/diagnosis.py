"""What ``cloister doctor`` looks at, one after the other. Trust zone: operator."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from console import machine_checks, network_checks, protection_checks, site_checks
from console.finding import Examined, Finding


def diagnose(examined: Examined) -> Iterator[Finding]:
    """Every finding, as soon as it is there."""
    yield machine_checks.python_version()
    yield machine_checks.platform()
    yield machine_checks.packages()
    yield machine_checks.clock(datetime.now(UTC))
    yield machine_checks.entropy()
    yield machine_checks.disk(examined.state)
    yield protection_checks.tee_device()
    yield protection_checks.software_tee()
    yield protection_checks.software_tpm()
    yield network_checks.proxies()
    if examined.listen:
        yield network_checks.port(examined.listen)
    if examined.host_config is not None:
        from console import store_checks

        yield from store_checks.stores(examined.host_config)
    if examined.site is not None:
        yield from site_checks.site(examined.site)
    if examined.coordinator:
        from console import reach_checks

        yield from reach_checks.coordinator(examined)
