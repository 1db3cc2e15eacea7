"""Three made-up organisations, their keys, and documents that differ from valid ones by just one thing."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]

from trusted.attestation.policies.snp import development_snp_policy, strict_snp_policy
from trusted.attestation.roots import amd_root
from trusted.documents import charter as charters
from trusted.documents import plan as plans
from trusted.documents.charter import VerifiedCharter, verify_charter
from trusted.documents.dsse import new_envelope, sign
from trusted.documents.plan import VerifiedPlan, verify_plan
from trusted.documents.schema import write_time
from trusted.hpke import SealingKey
from trusted.wire import encode_json

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
MEMBERS = ("bank-c", "hospital-a", "lab-b")
KEYS = {member: Ed25519PrivateKey.from_private_bytes(member.encode().ljust(32, b"k")) for member in MEMBERS}
OUTSIDER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
SEALING_KEYS = {member: SealingKey.generate() for member in MEMBERS}
BUNDLE = bytes(range(32))
MEASUREMENT = b"\x5a" * 48
SOFTWARE_ROOT = {"format": "snp", "product": "Genoa", "sha256": "ab" * 32}


def public(key: Ed25519PrivateKey) -> str:
    """The raw public key in hex."""
    return key.public_key().public_bytes_raw().hex()


def member_json(member: str) -> dict[str, Any]:
    """The public entry of one member."""
    return {
        "id": member,
        "name": member.replace("-", " ").title(),
        "signing_keys": [public(KEYS[member])],
        "sealing_key": SEALING_KEYS[member].public.hex(),
    }


def charter_json(**changes: Any) -> dict[str, Any]:
    """A valid development charter of three members, with ``changes`` at its top."""
    policy = {"snp": development_snp_policy([MEASUREMENT]).to_json()}
    return {
        "name": "Trial",
        "version": 1,
        "previous": None,
        "profile": "development",
        "not_before": write_time(NOW - DAY),
        "not_after": write_time(NOW + 365 * DAY),
        "members": [member_json(member) for member in MEMBERS],
        "thresholds": {"charter": 2, "plan": 2},
        "roots": [SOFTWARE_ROOT],
        "aggregator": copy.deepcopy(policy),
        "worker": copy.deepcopy(policy),
    } | changes


def production_json(**changes: Any) -> dict[str, Any]:
    """A valid production charter, with ``changes`` at its top."""
    policy = {"snp": strict_snp_policy([MEASUREMENT], products=["Genoa"]).to_json()}
    root = amd_root("Genoa")
    roots = [{"format": "snp", "product": root.product, "sha256": root.sha256.hex()}]
    hardware = {"aggregator": copy.deepcopy(policy), "worker": copy.deepcopy(policy)}
    return charter_json(profile="production", roots=roots, **hardware) | changes


def plan_json(charter: VerifiedCharter, **changes: Any) -> dict[str, Any]:
    """A valid plan under ``charter`` for all three members, with ``changes`` at its top."""
    return {
        "name": "visits",
        "purpose": "Predict how often people see a doctor",
        "charter": charter.digest.hex(),
        "not_before": write_time(NOW - DAY),
        "not_after": write_time(NOW + 30 * DAY),
        "app": {"kind": "flower", "bundle_sha256": BUNDLE.hex(), "config": {"local-epochs": 1, "lr": 0.1}},
        "model": {
            "initial_sha256": "11" * 32,
            "layout": [
                {"name": "fc.weight", "dtype": "float32", "shape": [2, 3]},
                {"name": "bn.num_batches_tracked", "dtype": "int64", "shape": []},
            ],
        },
        "rounds": 5,
        "cohort": {"members": list(MEMBERS), "minimum": 3, "size": 3},
        "deadlines": {"round_s": 600, "lease_s": 60, "reattest_s": 30},
        "aggregation": {"rule": "weighted-mean", "max_weight": 1000},
        "privacy": {"mechanism": "none", "reason": "all recipients are members"},
        "dataset": {"min_rows": 100, "columns": ["age", "visits"]},
        "metrics": [{"name": "loss", "min_sites": 3, "digits": 3}],
        "release": {"recipients": ["hospital-a"]},
    } | changes


def site_policy_json(charter: VerifiedCharter, plan: VerifiedPlan, **changes: Any) -> dict[str, Any]:
    """A site policy of hospital-a that allows ``plan`` exactly, with ``changes`` at its top."""
    return {
        "member": "hospital-a",
        "charter": charter.digest.hex(),
        "plans": [plan.digest.hex()],
        "bundles": [BUNDLE.hex()],
        "max_rounds": 5,
        "columns": ["age", "visits"],
        "not_after": write_time(NOW + 10 * DAY),
    } | changes


def credential_json(charter: VerifiedCharter, **changes: Any) -> dict[str, Any]:
    """A credential of hospital-a for one worker, with ``changes`` at its top."""
    return {
        "member": "hospital-a",
        "charter": charter.digest.hex(),
        "worker_key": public(OUTSIDER),
        "not_before": write_time(NOW - DAY),
        "not_after": write_time(NOW + DAY),
    } | changes


def order_json(**changes: Any) -> dict[str, Any]:
    """An order of hospital-a to start a run now, with ``changes`` at its top."""
    return {
        "action": "start",
        "plan": "22" * 32,
        "member": "hospital-a",
        "nonce": "33" * 16,
        "issued": write_time(NOW),
    } | changes


def signed(document: Any, payload_type: str, by: Iterable[str] = MEMBERS) -> bytes:
    """``document`` in an envelope, signed with the first key of each of ``by``."""
    return signed_with(document, payload_type, [KEYS[member] for member in by])


def signed_with(document: Any, payload_type: str, keys: Iterable[Ed25519PrivateKey]) -> bytes:
    """``document`` in an envelope, signed with ``keys``."""
    envelope = new_envelope(encode_json(document), payload_type)
    for key in keys:
        envelope = sign(envelope, CryptoSigner(key))
    return envelope.encode()


def charter(document: Any = None, by: Iterable[str] = MEMBERS) -> VerifiedCharter:
    """The verified charter of ``document``, by default the development one."""
    envelope = signed(charter_json() if document is None else document, charters.PAYLOAD_TYPE, by)
    return verify_charter(envelope, NOW)


def plan(under: VerifiedCharter, document: Any = None, by: Iterable[str] = MEMBERS) -> VerifiedPlan:
    """The verified plan of ``document``, by default the valid one."""
    return verify_plan(signed(document or plan_json(under), plans.PAYLOAD_TYPE, by), under, NOW)


def without(document: dict[str, Any], path: str) -> dict[str, Any]:
    """A copy of ``document`` that lacks the field at ``path`` (dots between keys)."""
    return _edited(document, path, lambda parent, key: parent.pop(key))


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of ``document`` with ``value`` at ``path`` (dots between keys)."""
    return _edited(document, path, lambda parent, key: parent.__setitem__(key, value))


def _edited(document: dict[str, Any], path: str, edit: Callable[[Any, Any], Any]) -> dict[str, Any]:
    result = copy.deepcopy(document)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = result
    for part in parents:
        place = place[part]
    edit(place, last)
    return result
