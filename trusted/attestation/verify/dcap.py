"""Do these Intel quotes hold: TDX and SGX, by dcap-qvl, offline. Trust zone: every TEE.

dcap-qvl does the cryptography at a time that we give it: chain, revocation lists, Intel's statements on TCB and
quoting enclave, both signatures. It is given one root, the one embedded in the quote, after that was found among the
trusted roots by its digest. What it concludes about the platform becomes claims; the policy judges them.
It refuses some guests whatever a policy says (debug, migration, profiling, service TDs, SEPT_VE_DISABLE=0), and so do
we. Azure's TDs run with SEPT_VE_DISABLE=0, so they are not supported.
Sources: Intel SGX/TDX DCAP specifications; attestation.md 1.2 and 6.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from trusted.attestation.evidence import Evidence
from trusted.attestation.formats import ccel, dcap
from trusted.attestation.formats.dcap import EnclaveBody, TdBody, UnverifiedQuote
from trusted.attestation.intel_claims import (
    IntelCollateral,
    IntelPlatform,
    Pck,
    PckFlag,
    SgxClaims,
    SgxType,
    TcbLevel,
    TcbStatus,
    TcbVerdict,
    TdxClaims,
)
from trusted.attestation.roots import TrustRoot
from trusted.attestation.verify import intel_collateral
from trusted.attestation.verify.intel_collateral import ClaimedCollateral, read_time
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

COLLATERAL = "collateral"
EVENT_LOG = "event-log"
_AUTHORITIES = {"Intel SGX PCK Platform CA": "platform", "Intel SGX PCK Processor CA": "processor"}
_FLAGS = {"True": PckFlag.ON, "False": PckFlag.OFF, "Undefined": PckFlag.UNDEFINED}

_DEBUG = "quote.attributes: no debug guest, whose memory the host may read, expected"
_MIGRATABLE = "quote.td_attributes: no guest that may be migrated expected"
_SERVICE_TD = "quote.mr_service_td: zeros, for no service TD, expected"
_NO_SEPT_VE_DISABLE = (
    "quote.td_attributes: SEPT_VE_DISABLE must be set; TDs under Azure's paravisor run without it and are not supported"
)

# What dcap-qvl says when it refuses, as far as it matters to people; the first that is in its message counts.
_REFUSALS: tuple[tuple[str, Reason, str], ...] = (
    ("CrlExpired", Reason.CRL_STALE, "collateral: a revocation list is no longer valid; fetch current collateral"),
    ("Failed to decode", Reason.EVIDENCE_FORMAT, "collateral: Intel's statements in Intel's form expected"),
    ("too short", Reason.CHAIN, "collateral: a certificate of Intel's and its root expected"),
    ("CRL", Reason.CHAIN, "collateral: the revocation lists of the quote's CAs expected"),
    ("UnknownRevocationStatus", Reason.CHAIN, "collateral: the revocation lists of the quote's CAs expected"),
    ("CertRevoked", Reason.REVOKED, "chain: a certificate is revoked"),
    ("CertExpired", Reason.CERT_EXPIRED, "chain: a certificate is no longer valid"),
    ("CertNotValidYet", Reason.CERT_NOT_YET_VALID, "chain: a certificate is not valid yet"),
    ("issue date is in the future", Reason.CERT_NOT_YET_VALID, "collateral: issued after now; check the clock"),
    ("xpired", Reason.CERT_EXPIRED, "collateral: no longer valid; fetch current collateral"),
    ("Fmspc mismatch", Reason.CHIP_BINDING, "collateral: another kind of platform's (FMSPC)"),
    ("PceId", Reason.CHIP_BINDING, "collateral: another kind of platform's (PCEID)"),
    ("TCB info in the collateral", Reason.CHIP_BINDING, "collateral: the TCB info of the other kind of TEE"),
    ("No matching TCB level", Reason.TCB_FLOOR, "quote: below every TCB level that Intel lists; update the platform"),
    ("Revoked", Reason.REVOKED, "quote: Intel has revoked this TCB level"),
    ("Debug mode", Reason.DEBUG, _DEBUG),
    ("TD profiling", Reason.DEBUG, _DEBUG),
    ("TD migration", Reason.MIGRATABLE, _MIGRATABLE),
    ("SERVTD_EXT", Reason.MIGRATABLE, _SERVICE_TD),
    ("MR service TD", Reason.MIGRATABLE, _SERVICE_TD),
    ("SEPT_VE_DISABLE", Reason.GUEST_POLICY, _NO_SEPT_VE_DISABLE),
    ("TDX module", Reason.TCB_BINDING, "quote: the TDX module is none that Intel lists"),
    ("SEAM", Reason.TCB_BINDING, "quote: the TDX module is none that Intel lists"),
    ("QE report hash", Reason.KEY_BINDING, "quote: the attestation key is not the quoting enclave's"),
    ("qe_report", Reason.EVIDENCE_SIGNATURE, "quote: the quoting enclave's report is not signed by the PCK"),
    ("in quote_collateral", Reason.CHAIN, "collateral: not signed by Intel"),
    ("QE ", Reason.KEY_BINDING, "quote: the quoting enclave is not the one that Intel describes"),
    ("quote_collateral", Reason.CHAIN, "collateral: not signed by Intel"),
    ("report signature", Reason.EVIDENCE_SIGNATURE, "quote: not signed by the attestation key"),
    ("ertificate", Reason.CHAIN, "chain: of quote or collateral, does not lead to the trusted root"),
    ("Issuer", Reason.CHAIN, "chain: of quote or collateral, does not lead to the trusted root"),
    ("ignature", Reason.CHAIN, "chain: of quote or collateral, does not lead to the trusted root"),
)


def verify_tdx(evidence: Evidence, roots: Sequence[TrustRoot], now: datetime) -> VerifiedEvidence:
    """The claims of a TDX quote under one of ``roots``, cheapest check first.

    1. The quote is well formed.
    2. The chain's root is one of ``roots``, for TDX.
    3. Chain, revocation lists, Intel's statements and signatures hold at ``now``; the guest is one that can be
       accepted at all.
    4. The event log, if one came along, is well formed; each register that it explains is noted.

    Raises:
        AttestationError: TRUST_ANCHOR, PRODUCT, CHAIN, CERT_EXPIRED, CERT_NOT_YET_VALID, CRL_STALE, REVOKED, DEBUG,
            MIGRATABLE, GUEST_POLICY, CHIP_BINDING, KEY_BINDING, TCB_BINDING, TCB_FLOOR, EVIDENCE_SIGNATURE,
            EVIDENCE_FORMAT (no collateral, or dcap-qvl is not installed), RUNTIME_MEASUREMENT, or what
            ``formats.dcap.parse_tdx`` raises.
    """
    _require_parts(evidence, (COLLATERAL, EVENT_LOG))
    quote, td = dcap.parse_tdx(evidence.report)  # 1
    root = _trusted_root(quote, roots, "TDX")  # 2
    found, platform, not_after = _verified(quote, evidence.part(COLLATERAL), now)  # 3
    _require_same(found["report"], td)
    _require_acceptable(td)
    claims = TdxClaims(evidence.format, td, platform, _events(evidence.part(EVENT_LOG), td))  # 4
    return VerifiedEvidence(claims, root, not_after, evidence.digest)


def verify_sgx(evidence: Evidence, roots: Sequence[TrustRoot], now: datetime) -> VerifiedEvidence:
    """The claims of an SGX quote under one of ``roots``; steps 1 to 3 of :func:`verify_tdx`.

    Raises:
        AttestationError: as :func:`verify_tdx`.
    """
    _require_parts(evidence, (COLLATERAL,))
    quote, enclave = dcap.parse_sgx(evidence.report)
    root = _trusted_root(quote, roots, "SGX")
    found, platform, not_after = _verified(quote, evidence.part(COLLATERAL), now)
    _require_same(found["report"], enclave)
    if "debug" in enclave.flags:
        raise AttestationError(Reason.DEBUG, _DEBUG)
    return VerifiedEvidence(SgxClaims(evidence.format, enclave, platform), root, not_after, evidence.digest)


def _require_parts(evidence: Evidence, known: tuple[str, ...]) -> None:
    """Nothing travels along that nobody looks at, and the chain is in the quote alone."""
    if evidence.certificates or evidence.crl or any(name not in known for name, _ in evidence.parts):
        expected = " and ".join(known)
        raise AttestationError(Reason.EVIDENCE_FORMAT, f"evidence: a quote with {expected} and nothing else expected")


def _require_acceptable(td: TdBody) -> None:
    """What no policy can allow, because dcap-qvl allows it to nobody (attestation.md 1.2). It has refused already; a
    version that no longer does would not change what we accept."""
    if "debug" in td.attributes:
        raise AttestationError(Reason.DEBUG, _DEBUG)
    if "migratable" in td.attributes:
        raise AttestationError(Reason.MIGRATABLE, _MIGRATABLE)
    if td.mr_service_td is not None and any(td.mr_service_td):
        raise AttestationError(Reason.MIGRATABLE, _SERVICE_TD)
    if "sept_ve_disable" not in td.attributes:
        raise AttestationError(Reason.GUEST_POLICY, _NO_SEPT_VE_DISABLE)


def _trusted_root(quote: UnverifiedQuote, roots: Sequence[TrustRoot], product: str) -> TrustRoot:
    """The root that the quote carries, if it is trusted. Its copy in the quote thereby has one spelling too."""
    digest = sha256(quote.chain[-1])
    matching = [root for root in roots if root.sha256 == digest]
    if not matching:
        raise AttestationError(Reason.TRUST_ANCHOR, "quote.chain: ends in none of the trusted roots")
    for root in matching:
        if root.product == product:
            return root
    raise AttestationError(Reason.PRODUCT, f"quote.chain: a root that is trusted for {product} expected")


def _verified(quote: UnverifiedQuote, collateral: bytes, now: datetime) -> tuple[Any, IntelPlatform, datetime]:
    """What dcap-qvl found, the platform, and when the first of all statements ends."""
    claimed = intel_collateral.read(collateral)
    chain = intel_collateral.read_chain(quote.chain)
    intel_collateral.require_current(claimed, chain, now)
    found = _run(quote, claimed, now)
    try:
        platform = _platform(quote, found, claimed, chain[0].issuer)
        ends = [found["earliest_expiration_date"], found["qe_iden_earliest_expiration_date"]]
        not_after = min(datetime.fromtimestamp(min(ends), UTC), claimed.not_after)
    except (LookupError, TypeError, ValueError, OverflowError):
        raise AttestationError(Reason.EVIDENCE_FORMAT, "quote: dcap-qvl reports something unknown") from None
    return found, platform, not_after


def _run(quote: UnverifiedQuote, collateral: ClaimedCollateral, now: datetime) -> Any:
    """dcap-qvl's claims on ``quote`` at ``now``. It applies no policy of its own beyond what it always refuses."""
    native = intel_collateral.library()
    try:
        # Seconds, cut: what has ended in this very second is refused by not_after.
        seconds = int(now.timestamp())
        verifier = native.QuoteVerifier(quote.chain[-1])
        policy = native.QuotePolicy.claims_only(seconds)
        return json.loads(verifier.verify_with_policy(quote.content, collateral.native, seconds, policy).to_json())
    except ValueError as error:
        raise _refusal(str(error)) from None
    except (TypeError, OverflowError):
        raise AttestationError(Reason.EVIDENCE_FORMAT, "quote: dcap-qvl cannot take it") from None
    except BaseException as error:
        _require_no_panic(error)
        raise


def _require_no_panic(error: BaseException) -> None:
    """A panic in Rust is a BaseException, which no handler expects: here it is one more refusal.

    Raises:
        AttestationError: it is one.
    """
    if type(error).__name__ == "PanicException":
        raise AttestationError(Reason.EVIDENCE_FORMAT, "quote: dcap-qvl gave up on it") from None


def _refusal(message: str) -> AttestationError:
    """The message may quote values, so it is classified and dropped."""
    for sign, reason, detail in _REFUSALS:
        if sign in message:
            return AttestationError(reason, detail)
    return AttestationError(Reason.EVIDENCE_SIGNATURE, "quote: does not verify")


def _require_same(found: Any, body: TdBody | EnclaveBody) -> None:
    """Both readers saw the same body: what a policy looks at is what dcap-qvl has verified."""
    (report,) = found.values()
    report = {**report, **report.get("base", {})}
    ours = (
        {"mr_td": body.mr_td, "td_attributes": body.td_attributes, "mr_config_id": body.mr_config_id}
        if isinstance(body, TdBody)
        else {"mr_enclave": body.mr_enclave, "mr_signer": body.mr_signer, "attributes": body.attributes_raw}
    )
    ours["report_data"] = body.report_data
    if any(report.get(name) != value.hex() for name, value in ours.items()):
        raise AttestationError(Reason.EVIDENCE_FORMAT, "quote: read differently by its two readers")


def _platform(quote: UnverifiedQuote, found: Any, collateral: ClaimedCollateral, issuer: str) -> IntelPlatform:
    platform, qe, tcb = found["platform"], found["qe"], found["tcb"]
    verdict = TcbVerdict(
        status=TcbStatus(tcb["status"]),
        advisories=tuple(sorted(set(tcb["advisory_ids"]))),
        platform=_level(platform["tcb_level"]),
        qe=_level(qe["tcb_level"]),
        evaluation=min(tcb["eval_data_number"], qe["tcb_eval_data_number"]),
    )
    window = IntelCollateral(
        tcb_issued=collateral.tcb_issued,
        tcb_next=collateral.tcb_next,
        qe_issued=collateral.qe_issued,
        qe_next=collateral.qe_next,
        pck_crl_number=platform["pck_crl_num"],
        root_crl_number=platform["root_ca_crl_num"],
    )
    return IntelPlatform(quote.header, quote.qe, _pck(issuer, platform["pck"]), verdict, window)


def _level(level: Any) -> TcbLevel:
    return TcbLevel(TcbStatus(level["tcbStatus"]), read_time(level["tcbDate"]))


def _pck(issuer: str, pck: Any) -> Pck:
    instance = pck["platform_instance_id"]
    return Pck(
        authority=_AUTHORITIES[issuer],
        ppid=bytes(pck["ppid"]),
        platform_instance_id=None if instance is None else bytes(instance),
        fmspc=bytes(pck["fmspc"]),
        pce_id=bytes(pck["pce_id"]),
        cpu_svn=bytes(pck["cpu_svn"]),
        pce_svn=pck["pce_svn"],
        sgx_type=tuple(SgxType)[pck["sgx_type"]],
        dynamic_platform=_FLAGS[pck["dynamic_platform"]],
        cached_keys=_FLAGS[pck["cached_keys"]],
        smt=_FLAGS[pck["smt_enabled"]],
    )


def _events(log: bytes, td: TdBody) -> tuple[tuple[bytes, ...] | None, ...] | None:
    """What was measured into each register, where the log leads to what the hardware signed."""
    if not log:
        return None
    replayed = ccel.replay(ccel.parse(log))
    explained = zip(replayed.rtmrs, td.rtmrs, replayed.digests, strict=True)
    return tuple(digests if computed == signed else None for computed, signed, digests in explained)
