"""TPM vectors: ``quote.msg``, ``quote.tpmt_signature`` or ``quote.sig``, ``ak_pub.der``, ``pcrs_<bank>.json``, a log.

Such a vector has a bare attestation key, so its root is the key itself: members would vouch for it in their charter.
Its public area did not come along either; one is written around the key, in the scheme that the signature names.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.attestation.from_vector import Loaded, files
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import UnverifiedQuote, parse_quote, parse_signature
from trusted.attestation.policies.pcr_rules import PcrRule
from trusted.attestation.policies.rules import Skip
from trusted.attestation.policies.tpm import TpmPolicy, strict_tpm_policy
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.attestation.tpm_claims import TpmClaims
from trusted.attestation.verify.tpm import key_sha256

_RSASSA, _ECDSA = 0x0014, 0x0018
_SIGNS_FOR_THE_TPM = 0x00050072  # fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, restricted, sign
_CURVES = {"secp256r1": 3, "secp384r1": 4}
_NO_LOG = Skip("the vector carries no event log")


def load(folder: Path, provenance: dict[str, Any]) -> Loaded:
    """The vector in ``folder``."""
    quote = (folder / "quote.msg").read_bytes()
    signature = tpmt_signature(folder)
    key = load_der_public_key((folder / "ak_pub.der").read_bytes())
    assert isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey)
    logs = list(files.event_logs(folder).values())
    parts = {"ak": public_area(key, signature), "pcrs": pcr_values(folder, quote), "signature": signature}
    if logs:
        parts["event-log"] = logs[0]
    digest = key_sha256(key)
    return Loaded(
        evidence=Evidence(EvidenceFormat.TPM, quote, (), b"", tuple(sorted(parts.items()))),
        roots=(TrustRoot(EvidenceFormat.TPM, "vouched for by the test", digest),),
        policy=policy_for(parse_quote(quote), digest, log=bool(logs)),
        expected_claims=lambda claims: from_claims(claims, signature),
        parsed_claims=lambda: {**from_quote(parse_quote(quote)), "sig_scheme": scheme_in_words(signature)},
    )


def policy_for(quote: UnverifiedQuote, key: bytes, *, log: bool) -> TpmPolicy:
    """The strict template for what ``quote`` measures."""
    rule = rule_of(quote)
    policy = strict_tpm_policy(
        [quote.pcr_digest], selection=rule.selection, bank=rule.bank, keys=[key], assurance=Assurance.NONE
    )
    return policy if log else TpmPolicy.from_json({**policy.to_json(), "event_log": {"skip": _NO_LOG.why}})


def rule_of(quote: UnverifiedQuote) -> PcrRule:
    """The first bank's selection: what a policy can ask for."""
    first = quote.selections[0]
    return PcrRule(first.bank, first.indexes, ())


def pcr_values(folder: Path, quote: bytes) -> bytes:
    """The selected registers' values, one after the other, out of a file for each bank that lists them all."""
    values = {bank: _bank(folder, bank) for bank in Bank}
    selections = parse_quote(quote).selections
    return b"".join(values[item.bank][index] for item in selections for index in item.indexes)


def _bank(folder: Path, bank: Bank) -> dict[int, bytes]:
    path = folder / f"pcrs_{bank.label}.json"
    if not path.is_file():
        return {}
    listed = json.loads(path.read_text())
    pairs = enumerate(listed) if isinstance(listed, list) else listed.items()
    return {int(index): bytes.fromhex(value) for index, value in pairs}


def tpmt_signature(folder: Path) -> bytes:
    """TPMT_SIGNATURE; a bare signature file is RSASSA with SHA-256, as Azure's is."""
    whole = folder / "quote.tpmt_signature"
    if whole.is_file():
        return whole.read_bytes()
    signature = (folder / "quote.sig").read_bytes()
    return _u16(_RSASSA, Bank.SHA256.value, len(signature)) + signature


def public_area(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey, signature: bytes) -> bytes:
    """TPMT_PUBLIC of ``key`` as an attestation key, in the scheme of ``signature``."""
    parsed = parse_signature(signature)
    head = _u16(1 if isinstance(key, rsa.RSAPublicKey) else 0x23, Bank.SHA256.value)
    head += _SIGNS_FOR_THE_TPM.to_bytes(4, "big") + _u16(0, 0x10, parsed.algorithm, parsed.hash)
    if isinstance(key, rsa.RSAPublicKey):
        size = key.key_size // 8
        return head + _u16(key.key_size) + bytes(4) + _u16(size) + key.public_numbers().n.to_bytes(size, "big")
    size = (key.key_size + 7) // 8
    numbers = key.public_numbers()
    head += _u16(_CURVES[key.curve.name], 0x10)
    return head + b"".join(_u16(size) + number.to_bytes(size, "big") for number in (numbers.x, numbers.y))


def _u16(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(2, "big") for number in numbers)


def from_quote(quote: UnverifiedQuote) -> dict[str, Any]:
    """What the parser reads, in the words of the provenance files."""
    return {
        "extra_data": quote.extra_data.hex(),
        "pcr_selection": [[item.bank.label, list(item.indexes)] for item in quote.selections],
        "pcr_digest": quote.pcr_digest.hex(),
    }


def from_claims(claims: TpmClaims, signature: bytes) -> dict[str, Any]:
    """What verified claims say."""
    return {
        "extra_data": claims.report_data.hex(),
        "pcr_selection": [[item.bank.label, list(item.indexes)] for item in claims.quote.selections],
        "pcr_digest": claims.measurement.hex(),
        "sig_scheme": scheme_in_words(signature),
    }


def scheme_in_words(signature: bytes) -> str:
    """How the provenance files spell a signature's scheme."""
    parsed = parse_signature(signature)
    name = "RSASSA-PKCS1v1.5" if parsed.algorithm == _RSASSA else "ECDSA"
    fields = f"alg {parsed.algorithm:#06x}, hash {parsed.hash:#06x}"
    return f"{name}/{Bank(parsed.hash).name.replace('SHA', 'SHA-')} in TPMT_SIGNATURE ({fields}, size)"
