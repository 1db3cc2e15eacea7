"""Verified claims as names and values, for people and programs alike. Trust zone: a member's machine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum

from trusted.attestation.claims import Launch, Platform, PlatformClaims, SnpClaims
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.policies.rules import write_time
from trusted.wire import Json


def claims_json(claims: PlatformClaims) -> dict[str, Json]:
    """Every claim by its name; the same values that :func:`claims_rows` shows."""
    if isinstance(claims, SnpClaims):
        return _snp(claims)
    return {key: value for name, item in _items(claims) for key, value in _flat(name, item)}


def _items(claims: object) -> list[tuple[str, object]]:
    return [(field.name, getattr(claims, field.name)) for field in fields(claims)]  # type: ignore[arg-type]


def _flat(name: str, value: object) -> list[tuple[str, Json]]:
    """A platform's claims as its verifier names them: records flattened, bytes in hexadecimal."""
    if is_dataclass(value) and not isinstance(value, type):
        return [entry for inner, item in _items(value) for entry in _flat(f"{name}_{inner}", item)]
    return [(name, _plain(value))]


def _plain(value: object) -> Json:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime):
        return write_time(value)
    if isinstance(value, Bank):
        return value.label
    if isinstance(value, Enum):
        return str(value.value)
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(item) for name, item in _items(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _snp(claims: SnpClaims) -> dict[str, Json]:
    crl = claims.crl
    issued = None if crl.this_update is None else write_time(crl.this_update)
    return {
        "format": claims.format.value,
        "report_version": claims.report_version,
        "report_data": claims.report_data.hex(),
        "host_data": claims.host_data.hex(),
        "vmpl": claims.vmpl,
        **_launch(claims.launch),
        **_platform(claims.platform),
        "revocation_list": crl.status.value,
        "revocation_list_issued": issued,
    }


def claims_rows(claims: PlatformClaims) -> list[tuple[str, str]]:
    """Name and value of every claim, in words."""
    return [(name.replace("_", " "), _words(value)) for name, value in claims_json(claims).items()]


def _launch(launch: Launch) -> dict[str, Json]:
    return {
        "measurement": launch.measurement.hex(),
        "debug": launch.debug,
        "migratable": launch.migratable,
        "guest_flags": _sorted(launch.guest_flags),
        "guest_svn": launch.guest_svn,
        "family_id": launch.family_id.hex(),
        "image_id": launch.image_id.hex(),
        "author_key": _hex(launch.author_key),
        "id_key": _hex(launch.id_key),
        "minimum_abi": str(launch.minimum_abi),
        "launch_mitigations": launch.mitigations,
    }


def _platform(platform: Platform) -> dict[str, Json]:
    return {
        "product": platform.product,
        "silicon_line": platform.line,
        "chip_id": platform.hardware_id.hex(),
        "signed_by": "the key of one chip" if platform.provider is None else f"a key of {platform.provider}",
        "platform_flags": _sorted(platform.flags),
        "tcb_reported": str(platform.tcb.reported),
        "tcb_current": str(platform.tcb.current),
        "tcb_committed": str(platform.tcb.committed),
        "tcb_launch": str(platform.tcb.launch),
        "firmware_current": str(platform.firmware.current),
        "firmware_committed": str(platform.firmware.committed),
        "mitigations": platform.mitigations,
    }


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _sorted(names: Iterable[str]) -> Json:
    listed: list[Json] = [*sorted(names)]
    return listed


def _words(value: Json) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, dict):
        return " ".join(f"{name} {_words(item)}" for name, item in value.items())
    return ", ".join(map(_words, value)) if isinstance(value, list) else str(value)
