"""The values that knobs of an appraisal policy take, each with its JSON form. Trust zone: every TEE.

Data and strict reading only; what a value means for claims stands in each platform's checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum, unique
from typing import Any, TypeVar

from trusted.attestation.claims import AbiVersion, FirmwareVersion, Tcb
from trusted.attestation.formats.snp import PLATFORM_FLAGS
from trusted.attestation.products import LINES
from trusted.errors import Reason, WireError
from trusted.wire import Fields, Json

MEASUREMENT_BYTES = 48
HARDWARE_ID_BYTES = 64
_MAX_ITEMS = 1024
_Item = TypeVar("_Item")
_TIME_FORM = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Skip:
    """A knob that its authors chose not to use, and why. Every skip is reported in the attestation result."""

    why: str


@unique
class Permission(Enum):
    """Whether something that weakens a guest is allowed."""

    REFUSE = "refuse"
    ALLOW = "allow"


@unique
class Demand(Enum):
    """Whether something that strengthens a guest is demanded."""

    REQUIRE = "require"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class ReferenceValue:
    """A measurement that may run, 48 bytes; with ``until`` only before then (the overlap window of an upgrade)."""

    value: bytes
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class TcbFloor:
    """The lowest TCB for each silicon line, or for a product's lines without one. What has no floor is refused."""

    floors: tuple[tuple[str, Tcb], ...]

    def of(self, line: str, product: str) -> Tcb | None:
        """The floor of ``line``, or else of its ``product``, if either has one."""
        floors = dict(self.floors)
        return floors.get(line, floors.get(product))


@dataclass(frozen=True, slots=True)
class PlatformRule:
    """Platform flags that must be set, and flags that must not. The others may be either."""

    require: tuple[str, ...]
    refuse: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MitigationRule:
    """Bits of the mitigation vectors that must be set, at launch and now."""

    launch: tuple[int, ...]
    current: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ProviderRule:
    """The cloud providers whose keys (VLEK) are trusted in place of a chip's own; nobody when empty."""

    providers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RevocationRule:
    """A revocation list is required, in its validity and at most this old."""

    max_age_days: int


def read_time(text: str, path: str) -> datetime:
    """A time of docs/protocol.md §1.

    Raises:
        WireError: MALFORMED.
    """
    try:
        time = datetime.strptime(text, _TIME_FORM).replace(tzinfo=UTC)
    except ValueError:
        raise WireError(Reason.MALFORMED, f"{path}: a time YYYY-MM-DDTHH:MM:SSZ expected") from None
    if write_time(time) != text:
        raise WireError(Reason.MALFORMED, f"{path}: a time YYYY-MM-DDTHH:MM:SSZ expected")
    return time


def write_time(time: datetime) -> str:
    """The one spelling of ``time`` (UTC), to the second."""
    return time.astimezone(UTC).strftime(_TIME_FORM)


def read_permission(fields: Fields, key: str) -> Permission:
    """``refuse`` or ``allow``."""
    return Permission(fields.choice(key, [item.value for item in Permission]))


def read_demand(fields: Fields, key: str) -> Demand:
    """``require`` or ``any``."""
    return Demand(fields.choice(key, [item.value for item in Demand]))


def read_names(fields: Fields, key: str, allowed: Iterable[str]) -> tuple[str, ...]:
    """A list of distinct names out of ``allowed``."""
    known = tuple(allowed)
    names: list[str] = []
    for index, name in enumerate(fields.items(key, max_items=_MAX_ITEMS)):
        if name not in known:
            raise WireError(Reason.MALFORMED, f"{fields.path(key)}[{index}]: one of {', '.join(known)} expected")
        names.append(name)
    return _distinct(names, fields.path(key))


def read_octets(fields: Fields, key: str, size: int) -> tuple[bytes, ...]:
    """A list of distinct byte strings of ``size`` bytes, none of them all zero, which stands for an absent value."""
    path = fields.path(key)
    values: list[bytes] = []
    for index, item in enumerate(fields.items(key, max_items=_MAX_ITEMS)):
        value = Fields({"hex": item}, f"{path}[{index}]").octets("hex", size)
        if not any(value):
            raise WireError(Reason.MALFORMED, f"{path}[{index}]: all zeros identify nothing")
        values.append(value)
    return _distinct(values, path)


def _distinct(items: list[_Item], path: str) -> tuple[_Item, ...]:
    if len(set(items)) != len(items):
        raise WireError(Reason.MALFORMED, f"{path}: no item twice")
    return tuple(items)


def write_octets(values: tuple[bytes, ...]) -> list[Json]:
    """Lower-case hexadecimal."""
    return [value.hex() for value in values]


def read_measurements(fields: Fields, key: str, size: int = MEASUREMENT_BYTES) -> tuple[ReferenceValue, ...]:
    """One or more of ``{"value": hex of ``size`` bytes, "until": time or null}``."""
    path = fields.path(key)
    references: list[ReferenceValue] = []
    for index, item in enumerate(fields.items(key, max_items=_MAX_ITEMS)):
        with Fields(item, f"{path}[{index}]") as entry:
            value = entry.octets("value", size)
            until = entry.take("until", str, type(None))
            time = None if until is None else read_time(until, entry.path("until"))
            references.append(ReferenceValue(value, time))
    if not references:
        raise WireError(Reason.MALFORMED, f"{path}: at least one measurement expected")
    _distinct([reference.value for reference in references], path)
    return tuple(references)


def write_measurements(references: tuple[ReferenceValue, ...]) -> list[Json]:
    """The JSON form of :func:`read_measurements`."""
    return [
        {"value": reference.value.hex(), "until": None if reference.until is None else write_time(reference.until)}
        for reference in references
    ]


def read_tcb_floor(fields: Fields, key: str) -> TcbFloor:
    """``{line: {component: number}}``, with every component that the line's product has."""
    floors: list[tuple[str, Tcb]] = []
    for line, item in fields.mapping(key).items():
        path = f"{fields.path(key)}.{line:.20}"
        if line not in LINES:
            raise WireError(Reason.UNKNOWN_FIELD, f"{path}: one of {', '.join(LINES)} expected")
        with Fields(item, path) as entry:
            names = LINES[line].tcb_names
            floors.append((line, Tcb(tuple((name, entry.integer(name, low=0, high=255)) for name in names))))
    return TcbFloor(tuple(floors))


def write_tcb_floor(rule: TcbFloor) -> dict[str, Json]:
    """The JSON form of :func:`read_tcb_floor`."""
    return {line: dict(floor.components) for line, floor in rule.floors}


def read_firmware(fields: Fields, key: str) -> FirmwareVersion:
    """``{"major", "minor", "build"}``."""
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        major, minor, build = (entry.integer(part, low=0, high=255) for part in ("major", "minor", "build"))
        return FirmwareVersion(major, minor, build)


def write_firmware(version: FirmwareVersion) -> dict[str, Json]:
    """The JSON form of :func:`read_firmware`."""
    return {"major": version.major, "minor": version.minor, "build": version.build}


def read_abi(fields: Fields, key: str) -> AbiVersion:
    """``{"major", "minor"}``."""
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        return AbiVersion(entry.integer("major", low=0, high=255), entry.integer("minor", low=0, high=255))


def write_abi(version: AbiVersion) -> dict[str, Json]:
    """The JSON form of :func:`read_abi`."""
    return {"major": version.major, "minor": version.minor}


def read_platform(fields: Fields, key: str) -> PlatformRule:
    """``{"require": [flag], "refuse": [flag]}``; no flag in both."""
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        rule = PlatformRule(read_names(entry, "require", PLATFORM_FLAGS), read_names(entry, "refuse", PLATFORM_FLAGS))
    if set(rule.require) & set(rule.refuse):
        raise WireError(Reason.MALFORMED, f"{fields.path(key)}: no flag both required and refused")
    return rule


def write_platform(rule: PlatformRule) -> dict[str, Json]:
    """The JSON form of :func:`read_platform`."""
    return {"require": list(rule.require), "refuse": list(rule.refuse)}


def _read_bits(fields: Fields, key: str) -> tuple[int, ...]:
    bits = fields.items(key, max_items=64)
    if any(type(bit) is not int or not 0 <= bit < 64 for bit in bits):
        raise WireError(Reason.MALFORMED, f"{fields.path(key)}: bit numbers 0 to 63 expected")
    return _distinct(bits, fields.path(key))


def read_mitigations(fields: Fields, key: str) -> MitigationRule:
    """``{"launch": [bit], "current": [bit]}``."""
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        return MitigationRule(_read_bits(entry, "launch"), _read_bits(entry, "current"))


def write_mitigations(rule: MitigationRule) -> dict[str, Json]:
    """The JSON form of :func:`read_mitigations`."""
    return {"launch": list(rule.launch), "current": list(rule.current)}


def read_providers(fields: Fields, key: str) -> ProviderRule:
    """``{"providers": [name]}``: the name in the key's certificate, such as ``CN=cc-us-east-2.amazonaws.com``."""
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        path = entry.path("providers")
        names = entry.items("providers", max_items=_MAX_ITEMS)
        for index, name in enumerate(names):
            Fields({"name": name}, f"{path}[{index}]").text("name", max_length=127)
        return ProviderRule(_distinct(names, path))


def write_providers(rule: ProviderRule) -> dict[str, Json]:
    """The JSON form of :func:`read_providers`."""
    return {"providers": list(rule.providers)}


def read_revocation(fields: Fields, key: str) -> RevocationRule:
    """``{"max_age_days": 1 to 3660}``."""
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        return RevocationRule(entry.integer("max_age_days", low=1, high=3660))


def write_revocation(rule: RevocationRule) -> dict[str, Json]:
    """The JSON form of :func:`read_revocation`."""
    return {"max_age_days": rule.max_age_days}


def read_skip(value: Any, path: str) -> Skip | None:
    """The skip that ``value`` is, if it is one; ``{"skip": ""}`` is none, for a skip has a reason.

    Raises:
        WireError: a skip without a reason, or with other fields.
    """
    if not isinstance(value, Mapping) or "skip" not in value:
        return None
    with Fields(value, path) as entry:
        return Skip(entry.text("skip", max_length=512))
