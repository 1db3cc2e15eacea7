"""The certificate chain with one thing wrong at a time (attestation.md 4.5 and 7.1)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from softtee import certificates
from softtee.chip import Chip, SoftwareRoot
from tests.attestation.conftest import attest_with, refused
from tests.attestation.forge import PSS, constraints, links, reissue, renamed, resigned, usage, with_chain
from tests.attestation.vectors import ROOTS
from trusted.attestation.appraise import verify
from trusted.attestation.roots import TrustRoot
from trusted.errors import AttestationError, Reason
from trusted.wire import sha256

AMD = "1.3.6.1.4.1.3704.1"
SECOND = timedelta(seconds=1)


def test_no_vendor_root_vouches_for_software_evidence(chip: Chip, now: datetime) -> None:
    for roots in ((), ROOTS):
        with pytest.raises(AttestationError) as error:
            verify(attest_with(chip), roots, now)
        assert error.value.reason is Reason.TRUST_ANCHOR


def test_another_software_root_is_refused(chip: Chip, other_root: SoftwareRoot, now: datetime) -> None:
    assert refused(attest_with(chip), other_root.trust_root, now) is Reason.TRUST_ANCHOR


def test_a_root_vouches_for_its_product_alone(chip: Chip, root: TrustRoot, now: datetime) -> None:
    for product in ("Milan", "Turin", "genoa", ""):
        assert refused(attest_with(chip), replace(root, product=product), now) is Reason.PRODUCT


def test_a_version_2_report_has_the_product_of_its_root(chip: Chip, root: TrustRoot, now: datetime) -> None:
    assert verify(attest_with(chip, version=2), [root], now).claims.platform.product == "Genoa"
    assert refused(attest_with(chip, version=2), replace(root, product="Milan"), now) is Reason.CHAIN
    assert refused(attest_with(chip, version=2), replace(root, product="Turin"), now) is Reason.PRODUCT


def test_a_foreign_chip_under_a_trusted_root_is_refused(
    chip: Chip, root: TrustRoot, other_root: SoftwareRoot, now: datetime
) -> None:
    foreign = other_root.issue_chip(now=now)
    evidence = attest_with(foreign)
    _, ask, ark = chip.certificate_chain
    mixed = replace(evidence, certificates=(evidence.certificates[0], ask, ark), crl=chip.crl)
    assert refused(mixed, root, now) is Reason.CHAIN
    mixed = replace(evidence, certificates=(*evidence.certificates[:2], ark), crl=chip.crl)
    assert refused(mixed, root, now) is Reason.CHAIN


@pytest.mark.parametrize("keep", [(), (0,), (0, 1), (1, 2), (0, 2, 1), (2, 1, 0), (0, 1, 2, 2)])
def test_a_chain_of_another_shape_is_refused(chip: Chip, root: TrustRoot, now: datetime, keep: Any) -> None:
    evidence = attest_with(chip)
    chain = tuple(evidence.certificates[place] for place in keep)
    assert refused(replace(evidence, certificates=chain), root, now) in (Reason.CHAIN, Reason.TRUST_ANCHOR)


def test_a_chain_holds_from_its_first_to_its_last_second(chip: Chip, root: TrustRoot) -> None:
    evidence = replace(attest_with(chip), crl=b"")
    cek = certificates.load_certificate(evidence.certificates[0])
    first, last = cek.not_valid_before_utc, cek.not_valid_after_utc
    verify(evidence, [root], first)
    assert verify(evidence, [root], last).not_after == last
    assert refused(evidence, root, first - SECOND) is Reason.CERT_NOT_YET_VALID
    assert refused(evidence, root, last + SECOND) is Reason.CERT_EXPIRED


@pytest.mark.parametrize("place", ["cek", "ask"])
def test_each_certificate_has_its_own_dates(chip: Chip, software_root: SoftwareRoot, now: datetime, place: str) -> None:
    issuer = software_root.ask if place == "cek" else software_root.ark
    der = chip.certificate_chain[("cek", "ask").index(place)]
    for change, reason in (
        ({"not_valid_after": now - SECOND}, Reason.CERT_EXPIRED),
        ({"not_valid_before": now + SECOND}, Reason.CERT_NOT_YET_VALID),
    ):
        forged = with_chain(chip, **{place: reissue(der, issuer.key, changes=change)})
        assert refused(attest_with(forged), software_root.trust_root, now) is reason


def test_verify_takes_a_time_in_utc_only(chip: Chip, root: TrustRoot, now: datetime) -> None:
    for other in (now.replace(tzinfo=None), now.astimezone(timezone(timedelta(hours=1)))):
        with pytest.raises(ValueError, match="UTC"):
            verify(attest_with(chip), [root], other)


@pytest.mark.parametrize(
    ("oid", "value"),
    [
        (NameOID.COUNTRY_NAME, "DE"),
        (NameOID.STATE_OR_PROVINCE_NAME, "TX"),
        (NameOID.LOCALITY_NAME, "Austin"),
        (NameOID.ORGANIZATION_NAME, "Advanced Macro Devices"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "Marketing"),
        (NameOID.COMMON_NAME, "SEV-VLEK"),
        (NameOID.COMMON_NAME, "VCEK"),
    ],
)
def test_another_name_of_the_chips_key_is_refused(
    chip: Chip, software_root: SoftwareRoot, now: datetime, oid: Any, value: str
) -> None:
    cek = chip.certificate_chain[0]
    subject = renamed(certificates.load_certificate(cek).subject, oid, value)
    forged = with_chain(chip, cek=reissue(cek, software_root.ask.key, changes={"subject_name": subject}))
    assert refused(attest_with(forged), software_root.trust_root, now) is Reason.CHAIN


@pytest.mark.parametrize("common_name", ["SEV-Milan", "SEV-VLEK-Genoa", "ARK-Genoa", "Genoa"])
def test_another_name_of_the_intermediate_is_refused(
    chip: Chip, software_root: SoftwareRoot, now: datetime, common_name: str
) -> None:
    cek, ask, _ = chip.certificate_chain
    name = renamed(software_root.ask.certificate.subject, NameOID.COMMON_NAME, common_name)
    forged = with_chain(
        chip,
        ask=reissue(ask, software_root.ark.key, changes={"subject_name": name}),
        cek=reissue(cek, software_root.ask.key, changes={"issuer_name": name}),
    )
    assert refused(attest_with(forged), software_root.trust_root, now) is Reason.CHAIN


def test_each_certificate_names_its_issuer(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    cek, ask, _ = chip.certificate_chain
    for forged in (
        with_chain(
            chip,
            cek=reissue(cek, software_root.ask.key, changes={"issuer_name": software_root.ark.certificate.subject}),
        ),
        with_chain(
            chip,
            ask=reissue(ask, software_root.ark.key, changes={"issuer_name": software_root.ask.certificate.subject}),
        ),
    ):
        assert refused(attest_with(forged), software_root.trust_root, now) is Reason.CHAIN


def forged_root(chip: Chip, root: SoftwareRoot, **changes: Any) -> tuple[Chip, TrustRoot]:
    """A chip whose pinned root certificate is wrong in itself, in a chain that holds together otherwise."""
    _, ask, ark = chip.certificate_chain
    name = changes.pop("name", root.ark.certificate.subject)
    names = {"subject_name": name, "issuer_name": name}
    forged = reissue(ark, root.ark.key, changes=names, **changes)
    ask = reissue(ask, root.ark.key, changes={"issuer_name": name})
    return with_chain(replace(chip, crl=b""), ask=ask, ark=forged), replace(root.trust_root, sha256=sha256(forged))


USAGE, CONSTRAINTS = "2.5.29.15", "2.5.29.19"


def test_a_pinned_root_must_still_be_one(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    good, pinned = forged_root(chip, software_root)
    verify(attest_with(good), [pinned], now)
    other_name = renamed(software_root.ark.certificate.subject, NameOID.COMMON_NAME, "ARK-Milan")
    for changes in (
        {"name": other_name},
        {"extensions": {CONSTRAINTS: None}},
        {"extensions": {CONSTRAINTS: constraints(ca=True, path_length=0)}, "critical": (CONSTRAINTS,)},
        {"extensions": {USAGE: usage(key_cert_sign=True, crl_sign=False)}, "critical": (USAGE,)},
        {"extensions": {USAGE: usage(key_cert_sign=False, crl_sign=True)}, "critical": (USAGE,)},
    ):
        forged, pinned = forged_root(chip, software_root, **changes)
        assert refused(attest_with(forged), pinned, now) is Reason.CHAIN


def test_a_root_that_did_not_sign_itself_is_refused(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    ark = reissue(chip.certificate_chain[2], software_root.ask.key)
    pinned = replace(software_root.trust_root, sha256=sha256(ark))
    assert refused(attest_with(with_chain(chip, ark=ark)), pinned, now) is Reason.CHAIN


def test_an_intermediate_may_sign_certificates(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    ask, key = chip.certificate_chain[1], software_root.ark.key
    signs, signs_not = (usage(key_cert_sign=value, crl_sign=False) for value in (True, False))
    good = reissue(ask, key, extensions={USAGE: signs}, critical=(USAGE,))
    verify(attest_with(with_chain(chip, ask=good)), [software_root.trust_root], now)
    for bad in (
        reissue(ask, key, extensions={USAGE: signs_not}, critical=(USAGE,)),
        reissue(ask, key, extensions={USAGE: signs}),
    ):
        assert refused(attest_with(with_chain(chip, ask=bad)), software_root.trust_root, now) is Reason.CHAIN


def test_a_certificate_of_an_older_version_is_refused(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    cek = chip.certificate_chain[0]
    tbs = certificates.load_certificate(cek).tbs_certificate_bytes
    second = tbs.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x01", 1)
    older = resigned(cek, software_root.ask.key, old=tbs, new=second)
    assert refused(attest_with(with_chain(chip, cek=older)), software_root.trust_root, now) is Reason.CHAIN
    same = resigned(cek, software_root.ask.key, old=tbs, new=tbs)
    verify(attest_with(with_chain(chip, cek=same)), [software_root.trust_root], now)


@pytest.mark.parametrize(
    "extensions",
    [
        {"2.5.29.19": None},
        {"2.5.29.19": constraints(ca=False, path_length=None)},
        {"2.5.29.19": constraints(ca=True, path_length=None)},
        {"2.5.29.19": constraints(ca=True, path_length=1)},
        {"2.5.29.19": constraints(ca=True, path_length=0)},  # right, but no longer critical
        {"2.5.29.15": None},
        {"2.5.29.31": None},
    ],
    ids=["no constraints", "no ca", "no path length", "long path", "not critical", "no usage", "no crl link"],
)
def test_an_intermediate_must_be_one(
    chip: Chip, software_root: SoftwareRoot, now: datetime, extensions: dict[str, bytes | None]
) -> None:
    ask = reissue(chip.certificate_chain[1], software_root.ark.key, extensions=extensions)
    assert refused(attest_with(with_chain(chip, ask=ask)), software_root.trust_root, now) is Reason.CHAIN


GENOA = "https://kdsintf.amd.com/vcek/v1/Genoa/crl"


@pytest.mark.parametrize(
    "addresses",
    [
        ("https://kdsintf.amd.com/vcek/v1/Milan/crl",),
        ("https://kdsintf.amd.com/vlek/v1/Genoa/crl",),
        ("https://kdsintf.example/vcek/v1/Genoa/crl",),
        (GENOA, GENOA),
    ],
)
def test_an_intermediate_has_one_link_to_amds_list(
    chip: Chip, software_root: SoftwareRoot, now: datetime, addresses: tuple[str, ...]
) -> None:
    ask = chip.certificate_chain[1]
    forged = reissue(ask, software_root.ark.key, extensions={"2.5.29.31": links(*addresses)})
    assert refused(attest_with(with_chain(chip, ask=forged)), software_root.trust_root, now) is Reason.CHAIN
    genuine = reissue(ask, software_root.ark.key, extensions={"2.5.29.31": links(GENOA)})
    verify(attest_with(with_chain(chip, ask=genuine)), [software_root.trust_root], now)


def test_an_intermediate_with_a_small_key_is_refused(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    small = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    ask = reissue(chip.certificate_chain[1], software_root.ark.key, changes={"public_key": small.public_key()})
    cek = reissue(chip.certificate_chain[0], small)
    assert refused(attest_with(with_chain(chip, ask=ask, cek=cek)), software_root.trust_root, now) is Reason.CHAIN


@pytest.mark.parametrize("place", ["cek", "ask"])
@pytest.mark.parametrize(
    "scheme",
    [
        (hashes.SHA384(), padding.PSS(padding.MGF1(hashes.SHA384()), salt_length=32)),
        (hashes.SHA384(), padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=48)),
        (hashes.SHA256(), padding.PSS(padding.MGF1(hashes.SHA256()), salt_length=48)),
        (hashes.SHA384(), padding.PKCS1v15()),
    ],
    ids=["salt", "mgf", "sha256", "pkcs1"],
)
def test_only_one_signature_scheme_is_good(
    chip: Chip, software_root: SoftwareRoot, now: datetime, place: str, scheme: Any
) -> None:
    issuer = software_root.ask if place == "cek" else software_root.ark
    der = chip.certificate_chain[("cek", "ask").index(place)]
    good = with_chain(chip, **{place: reissue(der, issuer.key, scheme=(hashes.SHA384(), PSS))})
    verify(attest_with(good), [software_root.trust_root], now)
    forged = with_chain(chip, **{place: reissue(der, issuer.key, scheme=scheme)})
    assert refused(attest_with(forged), software_root.trust_root, now) is Reason.CHAIN


def test_a_chips_key_on_another_curve_is_refused(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    cek = reissue(chip.certificate_chain[0], software_root.ask.key, changes={"public_key": key.public_key()})
    assert refused(attest_with(with_chain(chip, cek=cek)), software_root.trust_root, now) is Reason.KEY_BINDING


def test_a_critical_extension_of_the_chip_is_refused(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    oid, version = f"{AMD}.1", b"\x02\x01\x00"
    for critical, good in (((), True), ((oid,), False)):
        key = software_root.ask.key
        cek = reissue(chip.certificate_chain[0], key, extensions={oid: version}, critical=critical)
        evidence = attest_with(with_chain(chip, cek=cek))
        if good:
            verify(evidence, [software_root.trust_root], now)
        else:
            assert refused(evidence, software_root.trust_root, now) is Reason.CHAIN


def test_a_chip_that_is_known_is_still_held_to_its_dates(chip: Chip, root: TrustRoot, now: datetime) -> None:
    """What is remembered of a certificate is its signature, never that it is valid."""
    evidence = attest_with(chip)
    until = verify(evidence, [root], now).not_after
    verify(evidence, [root], until)
    assert refused(evidence, root, until + SECOND) is Reason.CERT_EXPIRED
    assert refused(evidence, root, now - timedelta(days=3650)) is Reason.CERT_NOT_YET_VALID


def test_a_chip_that_is_known_is_verified_anew_under_another_list_or_root(
    chip: Chip, software_root: SoftwareRoot, now: datetime
) -> None:
    evidence = attest_with(chip)
    verify(evidence, [software_root.trust_root], now)
    revoked = replace(evidence, crl=software_root.revoke_ask(now=now).crl)
    assert refused(revoked, software_root.trust_root, now) is Reason.REVOKED
    other = software_root.from_keys(software_root.ask.key, software_root.ark.key, now=now, product="Genoa")
    ark, ask = (issuer.certificate.public_bytes(Encoding.DER) for issuer in (other.ark, other.ask))
    moved = replace(evidence, certificates=(evidence.certificates[0], ask, ark), crl=other.crl)
    assert refused(moved, other.trust_root, now) is Reason.CHAIN
    flipped = bytearray(evidence.certificates[0])
    flipped[-1] ^= 1
    altered = replace(evidence, certificates=(bytes(flipped), *evidence.certificates[1:]))
    assert refused(altered, software_root.trust_root, now) is Reason.CHAIN
