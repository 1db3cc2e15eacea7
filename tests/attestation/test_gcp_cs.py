"""Tokens of Confidential Space: one algorithm, pinned keys, strict claims, each knob, and the launcher's socket."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from hypothesis import given
from hypothesis import strategies as st

from tests.attestation.azure_vm import jwk
from tests.attestation.conftest import REPORT_DATA, refused
from trusted.attestation.appraise import Expected, appraise, examine, verify
from trusted.attestation.binding import short_nonce
from trusted.attestation.claims import InstanceKey
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.gcp_token import parse, parse_claims, parse_jwks
from trusted.attestation.policies.check import Verdict
from trusted.attestation.policies.gcp_cs import AUDIENCE, GcpCsPolicy, strict_gcp_cs_policy
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.attestation.trust_vector import Tier
from trusted.errors import AttestationError, ProtocolError, Reason, TeeError, WireError
from trusted.evidence.gcp_cs import GcpConfidentialSpace, detect
from trusted.wire import sha256

KEY = rsa.generate_private_key(65537, 2048)
OTHER = rsa.generate_private_key(65537, 2048)
KID = "1a2b"
JWKS = json.dumps({"keys": [{"use": "sig", "alg": "RS256", **jwk(KEY.public_key(), KID)}]}).encode()
ROOT = TrustRoot(EvidenceFormat.GCP_CS, "Confidential Space", sha256(JWKS))
VOUCHED = replace(ROOT, vouched=Assurance.PROVIDER)
EXPECTED = Expected(REPORT_DATA, bytes(32))
IMAGE = bytes(range(32))
SECOND = timedelta(seconds=1)


def base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def token(payload: bytes, *, key: rsa.RSAPrivateKey = KEY, **header: Any) -> bytes:
    """A signed token; a header field of None is left out."""
    fields = {"alg": "RS256", "kid": KID, "typ": "JWT"} | header
    head = json.dumps({name: value for name, value in fields.items() if value is not None}).encode()
    signed = f"{base64url(head)}.{base64url(payload)}".encode()
    signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return signed + b"." + base64url(signature).encode()


def claims(now: datetime, **changes: Any) -> dict[str, Any]:
    """A production workload's claims; a change names its place with ``__`` for each step; ``...`` removes."""
    issued = int(now.timestamp())
    value: dict[str, Any] = {
        "aud": AUDIENCE,
        "iss": "https://confidentialcomputing.googleapis.com",
        "sub": "https://www.googleapis.com/compute/v1/projects/p/zones/z/instances/1234",
        "iat": issued,
        "nbf": issued,
        "exp": issued + 3600,
        "eat_nonce": short_nonce(REPORT_DATA).hex(),
        "eat_profile": "https://cloud.google.com/confidential-computing/confidential-space/docs/reference/token-claims",
        "secboot": True,
        "oemid": 11129,
        "hwmodel": "GCP_AMD_SEV",
        "swname": "CONFIDENTIAL_SPACE",
        "swversion": ["250301"],
        "dbgstat": "disabled-since-boot",
        "submods": {
            "confidential_space": {
                "support_attributes": ["LATEST", "STABLE", "USABLE"],
                "monitoring_enabled": {"memory": False},
            },
            "container": {
                "image_reference": "example.org/worker@sha256:" + IMAGE.hex(),
                "image_digest": "sha256:" + IMAGE.hex(),
                "image_id": "sha256:" + "22" * 32,
                "restart_policy": "Never",
                "args": ["python", "-m", "worker"],
                "env": {"PATH": "/usr/bin"},
                "env_override": None,
                "cmd_override": None,
            },
            "gce": {"zone": "z", "project_id": "p", "project_number": "1", "instance_name": "n", "instance_id": "1234"},
        },
    }
    for path, change in changes.items():
        *steps, last = path.split("__")
        place = value
        for step in steps:
            place = place[step]
        if change is ...:
            del place[last]
        else:
            place[last] = change
    return value


def evidence(now: datetime, **changes: Any) -> Evidence:
    return wrapped(token(json.dumps(claims(now, **changes)).encode()))


def wrapped(content: bytes, jwks: bytes = JWKS) -> Evidence:
    return Evidence(EvidenceFormat.GCP_CS, content, (), b"", (("jwks", jwks),))


def policy(**changes: Any) -> GcpCsPolicy:
    strict = strict_gcp_cs_policy(
        [IMAGE], projects=["p"], arguments=["python", "-m", "worker"], assurance=Assurance.NONE
    )
    return GcpCsPolicy.from_json({**strict.to_json(), **changes})


def why(now: datetime, with_policy: GcpCsPolicy, **changes: Any) -> Reason:
    verified = verify(evidence(now, **changes), [ROOT], now)
    with pytest.raises(AttestationError) as error:
        appraise(verified, with_policy, EXPECTED, now)
    return error.value.reason


def test_a_workload_on_googles_word_is_a_providers_when_the_members_say_so(now: datetime) -> None:
    asked = policy(assurance="provider")
    result = appraise(verify(evidence(now), [VOUCHED], now), asked, EXPECTED, now)
    assert result.assurance is Assurance.PROVIDER
    assert result.vector.status is Tier.WARNING
    for root, level in ((ROOT, "provider"), (VOUCHED, "hardware"), (VOUCHED, "possession")):
        with pytest.raises(AttestationError) as error:
            appraise(verify(evidence(now), [root], now), policy(assurance=level), EXPECTED, now)
        assert error.value.reason is Reason.ASSURANCE


def test_a_production_workload_is_affirmed(now: datetime) -> None:
    verified = verify(evidence(now), [ROOT], now)
    assert verified.not_after == now + timedelta(hours=1)
    assert verified.claims.report_data == short_nonce(REPORT_DATA)
    assert verified.claims.hardware_id == sha256(b"1234")
    result = appraise(verified, policy(), EXPECTED, now)
    assert (result.measurement, result.product) == (IMAGE, "GCP_AMD_SEV")
    assert (result.instance_key, result.provider) == (InstanceKey.PROVIDER, "Google")
    assert result.expires == now + timedelta(seconds=300)


def test_a_token_for_another_session_is_refused(now: datetime) -> None:
    assert why(now, policy(), eat_nonce="11" * 32) is Reason.REPORT_DATA


def test_a_token_holds_from_its_first_second_to_its_last(now: datetime) -> None:
    held = evidence(now)
    verify(held, [ROOT], now + 3599 * SECOND)
    assert refused(held, ROOT, now + 3600 * SECOND) is Reason.CERT_EXPIRED
    assert refused(held, ROOT, now - SECOND) is Reason.CERT_NOT_YET_VALID
    later = int((now + SECOND).timestamp())
    assert refused(evidence(now, nbf=later), ROOT, now) is Reason.CERT_NOT_YET_VALID
    assert refused(evidence(now, iat=later), ROOT, now) is Reason.CERT_NOT_YET_VALID


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS384", "PS256", "ES256", "rs256", "", None, 1])
def test_a_token_in_another_algorithm_is_refused(algorithm: Any, now: datetime) -> None:
    changed = token(json.dumps(claims(now)).encode(), alg=algorithm)
    assert refused(wrapped(changed), ROOT, now) is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize(
    "header", [{"typ": "JWE"}, {"typ": None}, {"x5c": []}, {"jwk": {}}, {"crit": ["exp"]}, {"kid": 1}]
)
def test_a_header_that_asks_for_more_is_refused(header: dict[str, Any], now: datetime) -> None:
    changed = token(json.dumps(claims(now)).encode(), **header)
    assert refused(wrapped(changed), ROOT, now) is Reason.EVIDENCE_FORMAT


def test_only_the_pinned_keys_count(now: datetime) -> None:
    payload = json.dumps(claims(now)).encode()
    forged = json.dumps({"keys": [jwk(OTHER.public_key(), KID)]}).encode()
    assert refused(wrapped(token(payload, key=OTHER), forged), ROOT, now) is Reason.TRUST_ANCHOR
    assert refused(wrapped(token(payload), JWKS + b" "), ROOT, now) is Reason.TRUST_ANCHOR
    assert refused(wrapped(token(payload), b""), ROOT, now) is Reason.TRUST_ANCHOR
    assert refused(wrapped(token(payload, key=OTHER)), ROOT, now) is Reason.EVIDENCE_SIGNATURE
    assert refused(wrapped(token(payload, kid="other")), ROOT, now) is Reason.KEY_BINDING


def test_another_issuer_under_the_same_keys_is_refused(now: datetime) -> None:
    assert refused(evidence(now, iss="https://accounts.google.com"), ROOT, now) is Reason.TRUST_ANCHOR


def test_every_bit_of_a_token_counts(now: datetime) -> None:
    good = evidence(now).report
    for position in range(8 * len(good)):
        changed = bytearray(good)
        changed[position // 8] ^= 1 << position % 8
        refused(wrapped(bytes(changed)), ROOT, now)


def test_a_token_cut_short_padded_or_nested_is_refused(now: datetime) -> None:
    good = evidence(now).report
    for bad in (
        b"",
        b"..",
        good + b".",
        good + b"=",
        good + b"\n",
        b" " + good,
        good[:-1],
        good.rpartition(b".")[0] + b".",
    ):
        refused(wrapped(bad), ROOT, now)
    assert refused(wrapped(good + b"A" * 20_000), ROOT, now) is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize(
    "changes",
    [
        {"eat_nonce": ["11" * 32, "22" * 32]},
        {"eat_nonce": ""},
        {"eat_nonce": "AB" * 32},
        {"eat_nonce": "zz" * 32},
        {"eat_nonce": ...},
        {"exp": ...},
        {"exp": "1"},
        {"exp": -1},
        {"exp": 1e300},
        {"exp": 1 << 70},
        {"iat": True},
        {"secboot": "true"},
        {"secboot": 1},
        {"swversion": "250301"},
        {"swversion": []},
        {"swversion": ["250301", "1"]},
        {"swversion": ["²"]},
        {"swversion": ["-1"]},
        {"dbgstat": None},
        {"hwmodel": 1},
        {"submods": []},
        {"submods__container": ...},
        {"submods__gce": None},
        {"submods__confidential_space__support_attributes": "STABLE"},
        {"submods__confidential_space__monitoring_enabled": {"memory": "no"}},
        {"submods__container__image_digest": "sha512:" + "11" * 32},
        {"submods__container__image_digest": "sha256:" + "11" * 31},
        {"submods__container__image_digest": "11" * 32},
        {"submods__container__args": "worker"},
        {"submods__container__args": [1]},
        {"submods__container__env_override": ["A=B"]},
        {"submods__container__env_override": {"A": 1}},
    ],
)
def test_claims_of_another_form_are_refused(changes: dict[str, Any], now: datetime) -> None:
    assert refused(evidence(now, **changes), ROOT, now) is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b'{"iss":"a","iss":"b"}', b'{"a":NaN}', b"\xff", b"[" * 99])
def test_a_payload_that_is_no_strict_json_is_refused(payload: bytes, now: datetime) -> None:
    assert refused(wrapped(token(payload)), ROOT, now) is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize(
    "keys",
    [
        [],
        {},
        [1],
        [jwk(KEY.public_key(), KID), jwk(OTHER.public_key(), KID)],
        [jwk(KEY.public_key(), KID, alg="RS512")],
        [jwk(KEY.public_key(), KID, use="enc")],
        [jwk(KEY.public_key(), KID, kty="oct")],
        [jwk(KEY.public_key(), KID, e="Aw")],
        [jwk(KEY.public_key(), f"{index}") for index in range(17)],
    ],
)
def test_a_key_set_of_another_form_is_refused(keys: Any) -> None:
    with pytest.raises(AttestationError) as error:
        parse_jwks(json.dumps({"keys": keys}).encode())
    assert error.value.reason is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize(
    ("changes", "knob", "loose", "reason"),
    [
        ({"hwmodel": "GCP_SHIELDED_VM"}, "hardware", ["GCP_SHIELDED_VM"], Reason.PRODUCT),
        (
            {"submods__container__image_digest": "sha256:" + "11" * 32},
            "measurements",
            [{"value": "11" * 32, "until": None}],
            Reason.MEASUREMENT,
        ),
        ({"aud": "https://sts.googleapis.com"}, "audience", "https://sts.googleapis.com", Reason.GUEST_POLICY),
        ({"dbgstat": "enabled"}, "debug", "allow", Reason.DEBUG),
        ({"secboot": False}, "secure_boot", "any", Reason.PLATFORM_INFO),
        ({"swversion": ["240800"]}, "minimum_version", 240800, Reason.FIRMWARE_VERSION),
        (
            {"submods__confidential_space__support_attributes": ["USABLE"]},
            "support",
            ["USABLE", "STABLE"],
            Reason.FIRMWARE_VERSION,
        ),
        (
            {"submods__confidential_space__support_attributes": None},
            "support",
            {"skip": "old"},
            Reason.FIRMWARE_VERSION,
        ),
        ({"submods__container__args": ["sh"]}, "arguments", ["sh"], Reason.GUEST_POLICY),
        ({"submods__container__env_override": {"A": "B"}}, "environment", {"A": "B"}, Reason.GUEST_POLICY),
        ({"submods__container__cmd_override": ["sh"]}, "command", "allow", Reason.GUEST_POLICY),
        (
            {"submods__confidential_space__monitoring_enabled": {"memory": True}},
            "monitoring",
            "allow",
            Reason.GUEST_POLICY,
        ),
        ({"submods__gce__project_id": "q"}, "projects", ["p", "q"], Reason.HARDWARE_NOT_ALLOWED),
    ],
)
def test_each_knob_refuses_and_admits(
    changes: dict[str, Any], knob: str, loose: Any, reason: Reason, now: datetime
) -> None:
    assert why(now, policy(), **changes) is reason
    verified = verify(evidence(now, **changes), [ROOT], now)
    appraise(verified, policy(**{knob: loose}), EXPECTED, now)


def test_knobs_that_are_not_in_the_template_refuse_and_admit(now: datetime) -> None:
    verified = verify(evidence(now), [ROOT], now)
    appraise(verified, policy(instances=["1234"], denied_instances=["1"]), EXPECTED, now)
    assert why(now, policy(instances=["1"])) is Reason.HARDWARE_NOT_ALLOWED
    assert why(now, policy(denied_instances=["1234"])) is Reason.HARDWARE_NOT_ALLOWED
    assert why(now, policy(assurance="hardware")) is Reason.ASSURANCE
    appraise(verified, policy(), EXPECTED, now + 300 * SECOND)
    with pytest.raises(AttestationError) as error:
        appraise(verified, policy(), EXPECTED, now + 301 * SECOND)
    assert error.value.reason is Reason.CERT_EXPIRED


def test_a_plain_machines_token_is_refused_whatever_the_policy_says(now: datetime) -> None:
    assert why(now, policy(), swname="GCE") is Reason.GUEST_POLICY


def test_no_check_shows_a_value_of_a_variable(now: datetime) -> None:
    """People put secrets there, and explanations get around."""
    verified = verify(evidence(now, submods__container__env_override={"TOKEN": "s3cret"}), [ROOT], now)
    checks = examine(verified, policy(environment={"TOKEN": "0ther"}), EXPECTED, now)
    assert "TOKEN" in next(check.actual for check in checks if check.verdict is Verdict.FAIL)
    assert not any("s3cret" in check.actual or "0ther" in check.expected for check in checks)


@given(st.binary(max_size=200))
def test_any_bytes_read_or_are_refused(content: bytes) -> None:
    for reader in (parse, parse_jwks, parse_claims):
        with contextlib.suppress(ProtocolError):
            reader(content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
PLACES = ("iss", "eat_nonce", "exp", "swversion", "secboot", "submods", "submods__container", "submods__gce",
          "submods__container__args", "submods__container__env_override", "submods__container__image_digest",
          "submods__confidential_space__support_attributes")  # fmt: skip


@given(st.sampled_from(PLACES), json_values)
def test_any_claim_reads_or_is_refused(place: str, value: Any) -> None:
    changed = claims(datetime.fromtimestamp(1_800_000_000).astimezone(), **{place: value})
    with contextlib.suppress(ProtocolError):
        parse_claims(json.dumps(changed).encode())


# The launcher.

Answer = Callable[[bytes], bytes]


@contextlib.contextmanager
def launcher(path: Path, answer: Answer) -> Iterator[list[bytes]]:
    """A fake of the launcher's socket: one request, one answer. Yields what was asked."""
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(str(path))
        door.listen(1)

        def serve() -> None:
            connection, _ = door.accept()
            with connection, contextlib.suppress(OSError):
                request = connection.recv(65536)
                while b"\r\n\r\n" not in request or len(request.partition(b"\r\n\r\n")[2]) < length_of(request):
                    request += connection.recv(65536)
                asked.append(request)
                connection.sendall(answer(request.partition(b"\r\n\r\n")[2]))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield asked
        thread.join(5)


def length_of(request: bytes) -> int:
    head = request.partition(b"\r\n\r\n")[0].lower()
    return int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0])


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_the_launcher_is_asked_for_our_nonce_and_its_token_verifies(tmp_path: Path, now: datetime) -> None:
    def answer(body: bytes) -> bytes:
        asked = json.loads(body)
        assert asked["token_type"] == "OIDC"
        changes = {"eat_nonce": asked["nonces"][0], "aud": asked["audience"]}
        return ok(token(json.dumps(claims(now, **changes)).encode()))

    path = tmp_path / "s"
    with launcher(path, answer) as asked:
        found = detect(JWKS, launcher=path).evidence(REPORT_DATA)
    assert asked[0].startswith(b"POST /v1/token HTTP/1.1\r\n")
    appraise(verify(found, [ROOT], now), policy(), EXPECTED, now)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
        b"nonsense\r\n\r\n",
        ok(b"A" * 40_000),
    ],
)
def test_a_launcher_that_gives_no_token_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "s"
    with launcher(path, lambda body: content), pytest.raises(TeeError) as error:
        GcpConfidentialSpace(JWKS, launcher=path).evidence(REPORT_DATA)
    assert error.value.reason is Reason.TEE_REPORT


def test_no_launcher_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TeeError, match="image family confidential-space") as error:
        detect(JWKS, launcher=tmp_path / "none")
    assert error.value.reason is Reason.TEE_DEVICE_MISSING
    with pytest.raises(TeeError) as error:
        GcpConfidentialSpace(JWKS, launcher=tmp_path / "none").evidence(REPORT_DATA)
    assert error.value.reason is Reason.TEE_REPORT


def test_report_data_of_another_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WireError):
        GcpConfidentialSpace(JWKS, launcher=tmp_path / "none").evidence(REPORT_DATA[:-1])
