"""Every case of every vector that the index names comes out as its provenance says; none is left out.

``pytest -m vectors`` with ``CLOISTER_VECTORS`` (default ``../shared/vectors``). Read from the index alone: vectors that
are added there are judged without a change here, as long as their format has a module in ``from_vector``.

A provenance file has ``cases``: ``time`` and ``unix`` (absent where no date matters), ``expect`` (``valid``: genuine,
so its verifier says; ``invalid``: refused by it, or by the strict policy), and ``why``, ``stage``, ``what``, ``nonce``,
``tcb_status``, ``advisory_ids`` where they apply. A case with ``"proved": false`` is documentation only.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.attestation import from_vector
from tests.attestation.from_vector import Loaded, anchors, event_log
from trusted.attestation.anchors import is_vendor_root
from trusted.attestation.appraise import Expected, examine, verify
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.policies.check import Verdict
from trusted.attestation.verify.verified import VerifiedEvidence
from trusted.errors import AttestationError, Reason

pytestmark = pytest.mark.vectors

REPOSITORY = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("CLOISTER_VECTORS") or REPOSITORY / ".." / "shared" / "vectors")
# Folders that hold no evidence of a machine, and what judges them.
ANCHORS, EVENT_LOG = "anchors", "event_log"
# When a case names no time, none of its checks depends on one.
ANY_TIME = datetime(2026, 11, 1, tzinfo=UTC)
# The stages that this test knows; others come from the format's module, or are the whole verification.
VERIFY, APPRAISE = "verify", "appraise"
# Bound to a session that is long over: what the evidence was made for is not what a vector is about.
BINDING = frozenset({"report_data", "host_data"})

_DATES = frozenset({Reason.CERT_EXPIRED, Reason.CERT_NOT_YET_VALID, Reason.CRL_STALE})
_SIGNED = frozenset({Reason.CHAIN, Reason.EVIDENCE_SIGNATURE, Reason.KEY_BINDING, Reason.CHIP_BINDING})
# What a ``why`` says, and the reasons that say the same. The first that matches counts; with none, any reason will do.
REASONS: tuple[tuple[str, frozenset[Reason]], ...] = (
    (r"debug", frozenset({Reason.DEBUG})),
    (r"servicetd|service td|migrat", frozenset({Reason.MIGRATABLE})),
    (r"expired|not yet valid|in the future|passed|stale", _DATES),
    (r"duplicate|\btwice\b", frozenset({Reason.DEVICE_DUPLICATE})),
    (r"event log|\bccel\b|\bpcr|\brtmr|replay", frozenset({Reason.RUNTIME_MEASUREMENT, Reason.MEASUREMENT})),
    (r"another chip|bytes altered|signature|not bound|is not hash", _SIGNED),
    (r"revoked|hold", frozenset({Reason.REVOKED})),
    (r"tcb level|out.?of.?date", frozenset({Reason.TCB_FLOOR, Reason.TCB_STATUS, Reason.TCB_BINDING})),
    (r"\brim\b|measurement", frozenset({Reason.MEASUREMENT, Reason.FIRMWARE_VERSION, Reason.RUNTIME_MEASUREMENT})),
    (r"sept_ve_disable|attributes|policy", frozenset({Reason.GUEST_POLICY})),
)


@dataclass(frozen=True, slots=True)
class Vector:
    """One entry of the index."""

    format: str
    name: str

    @property
    def folder(self) -> Path:
        return FOLDER / self.format / self.name

    @property
    def is_evidence(self) -> bool:
        """Whether there is a machine to verify: neither a vendor's anchors nor a log by itself."""
        return from_vector.format_of(self.format) not in (ANCHORS, EVENT_LOG)

    @property
    def provenance(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / "provenance.json").read_text()))

    @property
    def cases(self) -> list[dict[str, Any]]:
        """The cases that say something about the evidence that is there."""
        return [case for case in self.provenance["cases"] if case.get("proved", True)]

    def __str__(self) -> str:
        return f"{self.format}/{self.name}"


@cache
def index() -> tuple[Vector, ...]:
    """Every vector; none where the folder is absent."""
    if not FOLDER.is_dir():
        return ()
    return tuple(Vector(entry["format"], entry["name"]) for entry in json.loads((FOLDER / "index.json").read_text()))


def absent() -> list[Any]:
    """One visible skip in place of everything, where there are no vectors."""
    reason = f"no vendor vectors at {FOLDER}: set CLOISTER_VECTORS"
    return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="no-vectors")]


def every_case() -> list[Any]:
    pairs = [(vector, place) for vector in index() for place in range(len(vector.cases))]
    return [pytest.param(pair, id=f"{pair[0]}-{pair[1]}") for pair in pairs] or absent()


def every_vector() -> list[Any]:
    return [pytest.param(vector, id=str(vector)) for vector in index()] or absent()


def load(vector: Vector, case: dict[str, Any] | None = None) -> Loaded:
    """The vector, as ``case`` wants it. A loader that skips would leave a vector out, so that is a failure."""
    try:
        loaded = from_vector.load(vector.format, vector.folder, vector.provenance)
        return loaded if case is None or loaded.of_case is None else loaded.of_case(case)
    except pytest.skip.Exception as skipped:
        pytest.fail(f"{vector}: its loader skipped it: {skipped}")


def time_of(case: dict[str, Any]) -> datetime:
    return datetime.fromtimestamp(case["unix"], UTC) if "unix" in case else ANY_TIME


def failures(verified: VerifiedEvidence, loaded: Loaded, now: datetime) -> list[Reason]:
    """Why the strict policy refuses, apart from the session that the evidence was made for."""
    unbound = Expected(bytes(64), bytes(32))
    checks = examine(verified, loaded.policy, unbound, now)
    return [check.reason for check in checks if check.verdict is Verdict.FAIL and check.claim not in BINDING]


def verify_all(loaded: Loaded, now: datetime) -> tuple[VerifiedEvidence, ...]:
    """What verified: one, or every device of a set, none of them twice."""
    verified = tuple(verify(evidence, loaded.roots, now) for evidence in (loaded.evidence, *loaded.more))
    if loaded.more and len({item.claims.hardware_id for item in verified}) != len(verified):
        raise AttestationError(Reason.DEVICE_DUPLICATE, "a set: each device once expected")
    return verified


def outcome(vector: Vector, case: dict[str, Any]) -> tuple[tuple[VerifiedEvidence, ...], list[Reason]]:
    """What verified, if anything, and every reason for which it is refused."""
    now = time_of(case)
    if not vector.is_evidence:
        judge_of = anchors.judge if vector.format == ANCHORS else event_log.judge
        return (), _refusal(lambda: judge_of(vector.folder, case, now))
    loaded = load(vector, case)
    stage = case.get("stage", "")
    if stage in loaded.stages:
        return (), _refusal(lambda: loaded.stages[stage](now))
    try:
        verified = verify_all(loaded, now)
    except AttestationError as error:
        assert stage != APPRAISE, f"{vector}: genuine evidence expected, for the policy to refuse"
        return (), [error.reason]
    if case["expect"] != "invalid" or stage == VERIFY:
        # Genuine is all that a valid case says: the machines are old, and a strict policy may well refuse them.
        return verified, []
    return verified, [reason for item in verified for reason in failures(item, loaded, now)]


def _refusal(check: Any) -> list[Reason]:
    try:
        check()
    except AttestationError as error:
        return [error.reason]
    return []


def reasons_for(why: str) -> frozenset[Reason] | None:
    """The reasons that fit what a provenance file says; None where it is not known what it says."""
    return next((reasons for pattern, reasons in REASONS if re.search(pattern, why, re.IGNORECASE)), None)


def judge(vector: Vector, case: dict[str, Any]) -> None:
    """The case comes out as it says, and for what it says."""
    verified, refused = outcome(vector, case)
    if case["expect"] == "invalid":
        assert refused, "to be refused"
        fitting = reasons_for(case.get("why", ""))
        assert fitting is None or fitting & set(refused), f"refused for {refused}"
        return
    assert case["expect"] == "valid"
    assert not refused, f"refused for {refused}"
    for item in verified:
        _require_facts(case, item.claims)


def _require_facts(case: dict[str, Any], claims: Any) -> None:
    """What a case itself says about the claims."""
    if "tcb_status" in case:
        assert claims.tcb_status == case["tcb_status"]
    if "advisory_ids" in case:
        assert sorted(claims.advisories) == sorted(case["advisory_ids"])
    if "nonce" in case:
        assert claims.report_data.hex() == case["nonce"]


def pinned(digest: bytes) -> bool:
    """Whether the measured code names this root."""
    return any(is_vendor_root(format, digest) for format in EvidenceFormat)


def differences(expected: Any, found: Any, path: str = "") -> Iterator[str]:
    """Where ``found`` does not say what is ``expected``. It may say more."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key, value in expected.items():
            if key not in found:
                yield f"{path}.{key}: not found"
            else:
                yield from differences(value, found[key], f"{path}.{key}")
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for place, (value, other) in enumerate(zip(expected, found, strict=True)):
            yield from differences(value, other, f"{path}[{place}]")
    elif expected != found or type(expected) is not type(found):
        yield f"{path}: {expected!r} expected, {found!r} found"


@pytest.mark.parametrize("pair", every_case())
def test_each_case_comes_out_as_its_provenance_says(pair: tuple[Vector, int]) -> None:
    vector, place = pair
    judge(vector, vector.cases[place])


@pytest.mark.parametrize("vector", every_vector())
def test_the_claims_are_those_that_the_provenance_lists(vector: Vector) -> None:
    expected = vector.provenance.get("expected")
    if not expected:
        return
    found = list(_every_reading(vector))
    assert found, "neither verified claims nor the parser's: the loader gives no parsed_claims"
    for claims in found:
        assert not list(differences(expected, claims))


def _every_reading(vector: Vector) -> Iterator[dict[str, Any]]:
    """The claims at each time at which the vector verifies, and what the parser alone reads."""
    if not vector.is_evidence:
        yield anchors.found(vector.folder) if vector.format == ANCHORS else event_log.found_in(vector.folder)
        return
    for case in vector.cases:
        loaded = load(vector, case)
        if case["expect"] == "valid" and case.get("stage", "") not in loaded.stages:
            claims = tuple(item.claims for item in verify_all(loaded, time_of(case)))
            yield loaded.expected_claims(claims if loaded.more else claims[0])
    loaded = load(vector)
    if loaded.parsed_claims is not None:
        yield loaded.parsed_claims()


@pytest.mark.parametrize("vector", every_vector())
def test_no_vector_is_left_out(vector: Vector) -> None:
    """Each is in words that this test knows, and each has something to be judged by."""
    assert all(case["expect"] in ("valid", "invalid") for case in vector.cases)
    assert vector.cases or vector.provenance.get("expected")
    if vector.is_evidence:
        assert isinstance(load(vector), Loaded)


@pytest.mark.skipif(not index(), reason=f"no vendor vectors at {FOLDER}: set CLOISTER_VECTORS")
def test_the_index_names_every_vector_that_is_there() -> None:
    folders = {path.parent.relative_to(FOLDER).as_posix() for path in FOLDER.glob("*/*/provenance.json")}
    assert folders == {str(vector) for vector in index()}


@pytest.mark.skipif(not index(), reason=f"no vendor vectors at {FOLDER}: set CLOISTER_VECTORS")
def test_the_vendors_anchors_are_the_pinned_ones() -> None:
    for vector in [vector for vector in index() if vector.format == ANCHORS]:
        for digest in anchors.root_digests(vector.folder):
            assert pinned(digest), f"{vector}: {digest.hex()}"


@pytest.mark.skipif(not index(), reason=f"no vendor vectors at {FOLDER}: set CLOISTER_VECTORS")
def test_no_verifier_opens_a_socket() -> None:
    """Every case, once more, in a process in which neither Python nor native code can open an IP socket."""
    command = [sys.executable, "-m", "tests.attestation.without_network"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "CLOISTER_VECTORS": str(FOLDER.resolve())}
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, timeout=240)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert done.stdout.decode().split() == ["judged", str(sum(len(vector.cases) for vector in index()))]
