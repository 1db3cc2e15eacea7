"""Revocation lists: whose, how old, and what they say."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from softtee import certificates
from softtee.chip import Chip, SoftwareRoot
from tests.attestation.conftest import attest_with, refused
from tests.attestation.forge import (
    PSS,
    without_next_update,
)
from trusted.attestation.appraise import verify
from trusted.attestation.claims import CrlStatus
from trusted.attestation.roots import TrustRoot
from trusted.errors import Reason

SECOND = timedelta(seconds=1)
YEAR = timedelta(days=365)


def test_a_revoked_intermediate_is_refused_however_old_the_list(
    chip: Chip, software_root: SoftwareRoot, now: datetime
) -> None:
    revoked = replace(chip, crl=software_root.revoke_ask(now=now).crl)
    for later in (timedelta(0), 2 * YEAR):
        assert refused(attest_with(revoked), software_root.trust_root, now + later) is Reason.REVOKED


def test_a_revoked_root_is_refused(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    serial = software_root.ark.certificate.serial_number
    crl = certificates.revocation_list(software_root.ark, now=now, revoked=(serial,))
    assert refused(attest_with(replace(chip, crl=crl)), software_root.trust_root, now) is Reason.REVOKED


def test_a_list_that_revokes_others_is_good(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    crl = certificates.revocation_list(software_root.ark, now=now, revoked=(0x20001, 1), number=9)
    claim = verify(attest_with(replace(chip, crl=crl)), [software_root.trust_root], now).claims.crl
    assert (claim.status, claim.number) == (CrlStatus.GOOD, 9)


def test_a_list_says_its_age_and_an_absent_one_that_it_is_absent(chip: Chip, root: TrustRoot, now: datetime) -> None:
    evidence = attest_with(chip)
    until = now + YEAR
    assert verify(evidence, [root], until).claims.crl.status is CrlStatus.GOOD
    assert verify(evidence, [root], until + SECOND).claims.crl.status is CrlStatus.STALE
    assert verify(replace(evidence, crl=b""), [root], now).claims.crl.status is CrlStatus.ABSENT


def test_a_list_from_the_future_is_refused(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    hour = timedelta(hours=1)
    for ahead, good in ((timedelta(days=1), True), (timedelta(days=1) + SECOND, False)):
        crl = certificates.revocation_list(software_root.ark, now=now + hour + ahead)
        evidence = attest_with(replace(chip, crl=crl))
        if good:
            verify(evidence, [software_root.trust_root], now)
        else:
            assert refused(evidence, software_root.trust_root, now) is Reason.CERT_NOT_YET_VALID


def test_a_list_that_the_root_did_not_sign_is_refused(
    chip: Chip, root: TrustRoot, software_root: SoftwareRoot, other_root: SoftwareRoot, now: datetime
) -> None:
    by_ask = certificates.revocation_list(software_root.ask, now=now)
    renamed_ask = certificates.Issuer(software_root.ark.certificate, software_root.ask.key)
    wrongly_signed = certificates.revocation_list(renamed_ask, now=now)
    by_another_name = certificates.revocation_list(
        certificates.Issuer(software_root.ask.certificate, software_root.ark.key), now=now
    )
    endless = without_next_update(chip.crl, software_root.ark.key)
    flipped = chip.crl[:-1] + bytes([chip.crl[-1] ^ 1])
    for crl in (
        other_root.crl,
        by_ask,
        wrongly_signed,
        by_another_name,
        endless,
        flipped,
        chip.crl[:-1],
        chip.crl + b"\x00",
        b"\x30\x00",
        b"x",
    ):
        assert refused(replace(attest_with(chip), crl=crl), root, now) is Reason.CHAIN


def test_a_partial_list_is_refused(chip: Chip, software_root: SoftwareRoot, now: datetime) -> None:
    builder = x509.CertificateRevocationListBuilder().issuer_name(software_root.ark.certificate.subject)
    builder = builder.last_update(now - SECOND).next_update(now + YEAR)
    builder = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    crl = builder.sign(software_root.ark.key, hashes.SHA384(), rsa_padding=PSS).public_bytes(Encoding.DER)
    assert refused(attest_with(replace(chip, crl=crl)), software_root.trust_root, now) is Reason.CHAIN
