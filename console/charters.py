"""Making a charter from what a person gives. Trust zone: the member's own machine."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from console.documents import present
from console.files import read_bounded
from console.members import read_member_file
from console.output import UserError
from console.software_tpm import read_tpm_key, software_tpm_rule
from softtee.chip_tpm import tpm_root
from trusted.attestation.cca_claims import PRODUCT as CCA_PRODUCT
from trusted.attestation.device_policy import NO_DEVICES
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.policies.snp import strict_snp_policy
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.products import PRODUCTS
from trusted.attestation.roots import PROVIDER_FORMATS, VENDOR_ROOTS, Assurance, TrustRoot
from trusted.documents.charter import Charter, Member, Profile, Thresholds, VerifiedCharter, majority
from trusted.documents.schema import Validity
from trusted.wire import sha256

_MAX_CERTIFICATE_BYTES = 1 << 14
_MAX_POLICY_BYTES = 1 << 18
_PROVIDER_PRODUCTS = {
    EvidenceFormat.TPM: "TPM",
    EvidenceFormat.GCP_CS: "Confidential Space",
    EvidenceFormat.CCA: CCA_PRODUCT,
}
_HEX = re.compile(r"[0-9a-fA-F]+")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who agrees, for how long, and what comes before."""

    name: str
    profile: Profile
    members: tuple[Member, ...]
    valid_days: int
    previous: VerifiedCharter | None


@dataclass(frozen=True, slots=True)
class Proofs:
    """What is trusted, and what each role must prove; without ``recipient`` no runtime ever gets a model."""

    roots: tuple[TrustRoot, ...]
    aggregator: AppraisalPolicy
    worker: AppraisalPolicy
    recipient: AppraisalPolicy | None = None


def make_charter(identity: Identity, proofs: Proofs, thresholds: Thresholds) -> Charter:
    """The charter of all that, checked by the rules by which everybody else will check it.

    Raises:
        WireError, DocumentError: the first rule that does not hold.
    """
    now = present()
    older = identity.previous
    charter = Charter(
        name=identity.name,
        version=1 if older is None else older.document.version + 1,
        previous=None if older is None else older.digest,
        profile=identity.profile,
        validity=Validity(now, now + timedelta(days=identity.valid_days)),
        members=identity.members,
        thresholds=thresholds,
        roots=proofs.roots,
        aggregator=proofs.aggregator,
        worker=proofs.worker,
        recipient=proofs.recipient,
    )
    return Charter.parse(charter.encode())


def read_members(paths: Sequence[Path]) -> tuple[Member, ...]:
    """The members of ``member.json`` files, in the order of their ids."""
    return tuple(sorted((read_member_file(path) for path in paths), key=lambda member: member.id))


def default_thresholds(charter: int | None, plan: int | None, members: int) -> Thresholds:
    """The given thresholds; a majority where none is given."""
    return Thresholds(charter or majority(members), plan or majority(members))


def read_roots(
    vendor_products: Sequence[str], software_roots: Sequence[str], product: str, *, tpms: bool = False
) -> tuple[TrustRoot, ...]:
    """The vendors' own roots of ``vendor_products``, and software roots that vouch for ``product``, and for ``tpms``.

    Raises:
        UserError: TPMs without a software root, a product that nobody knows, or a root that is none of file, folder
            and digest.
    """
    for name, known in (*((name, VENDOR_ROOTS) for name in vendor_products), (product, PRODUCTS)):
        if name not in known:
            raise UserError(f"no such product: {name}", f"Give one of {', '.join(known)}.")
    vendor = [root for name in vendor_products for root in VENDOR_ROOTS[name]]
    digests = [_root_digest(root) for root in software_roots]
    software = [TrustRoot(EvidenceFormat.SNP, product, digest) for digest in digests]
    if tpms and not software:
        hint = "For a real TPM write devices.tpm into a policy file: cloister charter template tpm --as-device."
        raise UserError("--tpm-key is for software TPMs, and the charter trusts no software root", hint)
    if tpms:
        software += [tpm_root(digest) for digest in digests]
    return (*vendor, *software)


def require_roots(roots: Sequence[TrustRoot]) -> None:
    """There is something that the charter trusts.

    Raises:
        UserError: there is not.
    """
    if not roots:
        hint = "Add --vendor-root Genoa, --provider-root gcp-cs=…, or --software-root for a development charter."
        raise UserError("the charter trusts no root", hint)


def read_provider_roots(given: Sequence[str]) -> tuple[TrustRoot, ...]:
    """Roots for which the members vouch, each ``FORMAT=SHA256`` or ``FORMAT=FILE`` (whose very bytes are the root).

    Raises:
        UserError: another form. DocumentError: a format whose roots are silicon vendors'.
    """
    return tuple(_provider_root(text) for text in given)


def _provider_root(text: str) -> TrustRoot:
    name, _, value = text.partition("=")
    known = {format.value: format for format in PROVIDER_FORMATS}
    if name not in known or not value:
        raise UserError(f"--provider-root {text}: not FORMAT=SHA256", f"FORMAT is one of {', '.join(sorted(known))}.")
    is_digest = len(value) == 64 and _HEX.fullmatch(value)
    digest = bytes.fromhex(value) if is_digest else sha256(read_bounded(Path(value), _MAX_POLICY_BYTES))
    return TrustRoot(known[name], _PROVIDER_PRODUCTS[known[name]], digest, Assurance.PROVIDER)


def read_policy(
    file: Path | None,
    measurements: Sequence[str],
    *,
    roots: Sequence[TrustRoot],
    chip_ids: Sequence[str] = (),
    tpm_keys: Sequence[str] = (),
) -> AppraisalPolicy:
    """The policy in ``file``, or the strict one for ``measurements`` (hex, or files that hold hex).

    With ``chip_ids`` (hex) only those processors may take part; without, every one of the roots' products. With
    ``tpm_keys`` (hex, or chips' folders) each machine must hold a software TPM too, with one of those keys.

    Raises:
        UserError: neither or both are given, or a measurement is not 48 bytes of hexadecimal.
        TeeError: a chip that has no TPM.
        OSError, WireError: a file cannot be read, or is no policy.
    """
    if (file is None) == (not measurements):
        raise UserError("a role needs measurements or a policy file", "Give one of the two for each role.")
    if file is not None and tpm_keys:
        hint = "Write devices.tpm into that file: cloister charter template tpm --as-device."
        raise UserError("--tpm-key goes with measurements, and a role has a policy file", hint)
    if file is not None:
        return AppraisalPolicy.from_json(_read_json(file))
    products = sorted({root.product for root in roots if root.format is EvidenceFormat.SNP})
    if not products:
        hint = "Take `cloister charter template PLATFORM`, complete it, and give it with --worker-policy."
        raise UserError("measurements alone make a policy for SEV-SNP, and no root is for that", hint)
    if "Milan" in products and not chip_ids:
        hint = "Name each trusted processor with --chip-id, or leave Milan out."
        raise UserError("Milan chip keys can be extracted in software, so no other Milan chip is trusted", hint)
    assurance = min((root.assurance for root in roots), key=lambda assurance: assurance.rank)
    values = [read_measurement(text) for text in measurements]
    policy = strict_snp_policy(
        values,
        products=products,
        assurance=assurance,
        chip_ids=[_octets(text, 64, "a chip id") for text in chip_ids] or None,
    )
    devices = {EvidenceFormat.TPM: software_tpm_rule(values, [read_tpm_key(given) for given in tpm_keys])}
    return AppraisalPolicy({EvidenceFormat.SNP: policy}, devices if tpm_keys else NO_DEVICES)


def _read_json(file: Path) -> Any:
    """A policy as a person edits it, in any layout: what is signed in the end is the charter in its one spelling."""
    try:
        return json.loads(read_bounded(file, _MAX_POLICY_BYTES), object_pairs_hook=_each_once)
    except (ValueError, RecursionError):
        hint = "`cloister charter template` prints one; complete it and keep it JSON, with each name once."
        raise UserError(f"{file}: not a policy in JSON", hint) from None


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a name stands twice")
    return dict(pairs)


def read_measurement(text: str) -> bytes:
    """The measurement (48 bytes) that ``text`` spells in hexadecimal, or that stands so in the file of that name.

    Raises:
        UserError, OSError: neither.
    """
    if not _HEX.fullmatch(text):
        text = read_bounded(Path(text), 4096).decode("ascii", "replace").strip()
    return _octets(text, 48, "a measurement")


def _octets(text: str, size: int, what: str) -> bytes:
    if not _HEX.fullmatch(text) or len(text) != 2 * size:
        hint = "`cloister measure` prints measurements; `cloister attest explain` prints the chip id in evidence."
        raise UserError(f"{what} is not {size} bytes of hexadecimal", hint)
    return bytes.fromhex(text)


def _root_digest(given: str) -> bytes:
    """SHA-256 of the root certificate's DER: ``given`` is the digest, the certificate, or a folder with ``ark.der``."""
    if len(given) == 64 and _HEX.fullmatch(given):
        return bytes.fromhex(given)
    path = Path(given)
    data = read_bounded(path / "ark.der" if path.is_dir() else path, _MAX_CERTIFICATE_BYTES)
    try:
        loaded = (
            x509.load_pem_x509_certificate(data) if data.startswith(b"-----") else x509.load_der_x509_certificate(data)
        )
    except ValueError:
        hint = "Give the root's ark.der, its folder, or the SHA-256 of the certificate."
        raise UserError(f"{path}: not a certificate", hint) from None
    return sha256(loaded.public_bytes(Encoding.DER))
