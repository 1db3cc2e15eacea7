"""Which file of a vector's folder is which: by name where the name is known, else by what it holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from trusted.attestation.formats.ccel import encode_event
from trusted.attestation.verify.certificates import read_certificate

_COMMON_NAME = x509.NameOID.COMMON_NAME.dotted_string
_PEM = b"-----BEGIN CERTIFICATE"
_SPEC_ID_AT, _SPEC_ID = 32, b"Spec ID Event03\0"
# What opens a TCG log whose events all carry one SHA-384 digest: for logs that came along as JSON.
_HEADER = bytes.fromhex(f"0100000003000000{'00' * 20}21000000") + _SPEC_ID + bytes.fromhex("000000000002000201000000")
_SHA384 = bytes.fromhex("0c00300000")


def one(folder: Path, *patterns: str) -> Path:
    """The first file that one of ``patterns`` names, in their order.

    Raises:
        FileNotFoundError: none does.
    """
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if found:
            return found[0]
    raise FileNotFoundError(f"{folder}: none of {patterns} among {sorted(path.name for path in folder.iterdir())}")


def named(case: Mapping[str, Any], paths: Mapping[Path, bytes]) -> dict[Path, bytes]:
    """Those of ``paths`` that the case speaks of (``what``); all where it speaks of none."""
    spoken = {path: content for path, content in paths.items() if path.name in str(case.get("what", ""))}
    return spoken or dict(paths)


def certificates(folder: Path) -> dict[str, bytes]:
    """DER of every certificate in the folder's files, by common name."""
    return {dict(read_certificate(der, "certificate").subject)[_COMMON_NAME]: der for der in _certificates(folder)}


def event_logs(folder: Path) -> dict[Path, bytes]:
    """Every event log in the folder, in the TCG's binary form; JSON logs are written in it."""
    found: dict[Path, bytes] = {}
    for path in sorted(folder.iterdir()):
        content = path.read_bytes() if path.is_file() else b""
        if content[_SPEC_ID_AT:].startswith(_SPEC_ID):
            found[path] = content
        elif path.suffix == ".json" and "event" in path.name.lower():
            found[path] = _from_json(json.loads(content))
    return found


def _from_json(listed: Any) -> bytes:
    """The log of a guest agent: a list of ``{"imr": 0 to 3, "event_type": number, "digest": hex}``."""
    events = listed["event_log"] if isinstance(listed, dict) else listed
    encoded = [encode_event(item["imr"], item["event_type"], bytes.fromhex(item["digest"]), b"") for item in events]
    return _HEADER + _SHA384 + b"".join(encoded)


def _certificates(folder: Path) -> Iterator[bytes]:
    for path in sorted(folder.iterdir()):
        content = path.read_bytes() if path.is_file() else b""
        if content.startswith(_PEM):
            yield from (item.public_bytes(Encoding.DER) for item in x509.load_pem_x509_certificates(content))
        elif path.suffix in (".der", ".cer", ".crt") and "crl" not in path.name:
            yield content
