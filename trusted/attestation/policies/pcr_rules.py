"""The values that knobs about PCRs take, each with its JSON form. Trust zone: every TEE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import Scheme
from trusted.attestation.policies.rules import ReferenceValue, read_time, write_measurements
from trusted.errors import Reason, WireError
from trusted.wire import Fields, Json

_PCRS = 24
_MAX_VALUES = 64
_MAX_REFERENCES = 1024
_DIGEST_BYTES = (32, 48)
_MAX_COUNT = (1 << 32) - 1


@dataclass(frozen=True, slots=True)
class PcrRule:
    """Exactly which PCRs a quote must sum up, and what single ones may hold.

    Attributes:
        bank: the only bank of the selection.
        selection: indexes, rising.
        values: (index, allowed values) for those that are also looked at one by one; ``measurements`` covers all.
    """

    bank: Bank
    selection: tuple[int, ...]
    values: tuple[tuple[int, tuple[bytes, ...]], ...]


@dataclass(frozen=True, slots=True)
class RestartRule:
    """How often the TPM may have been reset, and resumed since: bounds that make a later boot visible."""

    max_resets: int
    max_restarts: int


@dataclass(frozen=True, slots=True)
class EventLogRule:
    """The PCRs whose value an event log must explain; none when empty, but then a log is not asked for either."""

    pcrs: tuple[int, ...]


def read_pcrs(fields: Fields, key: str) -> PcrRule:
    """``{"bank": "sha256" or "sha384", "selection": [index], "values": {"index": [hex]}}``."""
    path = fields.path(key)
    with Fields(fields.mapping(key), path) as entry:
        bank = Bank[entry.choice("bank", [item.label for item in Bank]).upper()]
        selection = read_indexes(entry, "selection")
        if not selection:
            raise WireError(Reason.MALFORMED, f"{path}.selection: at least one PCR expected")
        return PcrRule(bank, selection, _read_values(entry, bank, selection))


def _read_values(entry: Fields, bank: Bank, selection: tuple[int, ...]) -> tuple[tuple[int, tuple[bytes, ...]], ...]:
    path = entry.path("values")
    value: Mapping[str, Any] = entry.mapping("values")
    with Fields(value, path) as fields:
        found: dict[int, tuple[bytes, ...]] = {}
        for index in selection:
            if fields.has(str(index)):
                items = fields.items(str(index), max_items=_MAX_VALUES)
                values = tuple(
                    Fields({"hex": item}, f"{path}.{index}").octets("hex", bank.size_bytes) for item in items
                )
                if not values or len(set(values)) != len(values):
                    raise WireError(Reason.MALFORMED, f"{path}.{index}: distinct values, at least one, expected")
                found[index] = values
    return tuple(found.items())


def write_pcrs(rule: PcrRule) -> dict[str, Json]:
    """The JSON form of :func:`read_pcrs`."""
    values: dict[str, Json] = {str(index): [value.hex() for value in allowed] for index, allowed in rule.values}
    return {"bank": rule.bank.label, "selection": list(rule.selection), "values": values}


def read_indexes(fields: Fields, key: str) -> tuple[int, ...]:
    """PCR numbers, 0 to 23, in rising order."""
    items = fields.items(key, max_items=_PCRS)
    if any(type(item) is not int or not 0 <= item < _PCRS for item in items) or sorted(set(items)) != items:
        raise WireError(Reason.MALFORMED, f"{fields.path(key)}: PCR numbers, 0 to 23, in rising order expected")
    return tuple(items)


def read_digests(fields: Fields, key: str) -> tuple[ReferenceValue, ...]:
    """One or more of ``{"value": hex of 32 or 48 bytes, "until": time or null}``."""
    path = fields.path(key)
    references: list[ReferenceValue] = []
    for index, item in enumerate(fields.items(key, max_items=_MAX_REFERENCES)):
        with Fields(item, f"{path}[{index}]") as entry:
            value = entry.octets("value")
            until = entry.take("until", str, type(None))
        if len(value) not in _DIGEST_BYTES:
            raise WireError(Reason.MALFORMED, f"{path}[{index}].value: 32 or 48 bytes expected, by the key's scheme")
        references.append(ReferenceValue(value, None if until is None else read_time(until, f"{path}[{index}].until")))
    if not references or len({reference.value for reference in references}) != len(references):
        raise WireError(Reason.MALFORMED, f"{path}: distinct measurements, at least one, expected")
    return tuple(references)


write_digests = write_measurements


def read_restarts(fields: Fields, key: str) -> RestartRule:
    """``{"max_resets", "max_restarts"}``."""
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        resets, restarts = (entry.integer(name, low=0, high=_MAX_COUNT) for name in ("max_resets", "max_restarts"))
        return RestartRule(resets, restarts)


def write_restarts(rule: RestartRule) -> dict[str, Json]:
    """The JSON form of :func:`read_restarts`."""
    return {"max_resets": rule.max_resets, "max_restarts": rule.max_restarts}


def read_event_log(fields: Fields, key: str) -> EventLogRule:
    """``{"pcrs": [index]}``, at least one: who asks for no log skips the knob."""
    with Fields(fields.mapping(key), fields.path(key)) as entry:
        rule = EventLogRule(read_indexes(entry, "pcrs"))
    if not rule.pcrs:
        raise WireError(Reason.MALFORMED, f"{fields.path(key)}.pcrs: at least one PCR expected")
    return rule


def write_event_log(rule: EventLogRule) -> dict[str, Json]:
    """The JSON form of :func:`read_event_log`."""
    return {"pcrs": list(rule.pcrs)}


def read_schemes(fields: Fields, key: str) -> tuple[Scheme, ...]:
    """Distinct names of :class:`Scheme`."""
    known = {item.value: item for item in Scheme}
    items = fields.items(key, max_items=len(known))
    if not items or any(not isinstance(item, str) or item not in known for item in items):
        raise WireError(Reason.MALFORMED, f"{fields.path(key)}: one or more of {', '.join(known)} expected")
    if len(set(items)) != len(items):
        raise WireError(Reason.MALFORMED, f"{fields.path(key)}: no item twice")
    return tuple(known[item] for item in items)


def write_schemes(schemes: tuple[Scheme, ...]) -> list[Json]:
    """The JSON form of :func:`read_schemes`."""
    return [scheme.value for scheme in schemes]
