"""Which source of evidence a machine has: trees of files that look like each of them."""

from __future__ import annotations

import json
from base64 import urlsafe_b64encode
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from console.enclaves import provisions_for
from tests.attestation.cose_forge import cca, key, spki
from tests.softtee.test_configfs_tsm import FakeKernel
from trusted.attestation.appraise import verify
from trusted.attestation.evidence import EvidenceFormat
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.policies.snp import strict_snp_policy
from trusted.attestation.policies.tpm import strict_tpm_policy
from trusted.attestation.policy import AppraisalPolicy
from trusted.errors import Reason, TeeError
from trusted.evidence.cca import to_spki
from trusted.evidence.configfs_tsm import ConfigfsTsm, TsmFs
from trusted.evidence.detection import Provisions, detect, survey
from trusted.evidence.gcp_cs import GcpConfidentialSpace
from trusted.evidence.gramine import Gramine
from trusted.evidence.nsm import Nsm
from trusted.evidence.sev_guest import SevGuest

REPORT_DATA = bytes(range(64))
NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)
ORDER = ["gramine", "nsm", "configfs-tsm", "sev-guest", "gcp-cs", "azure-vtpm", "tpm"]
FILES = {
    "gramine": ("dev/attestation/attestation_type", b"dcap"),
    "nsm": ("dev/nsm", b""),
    "sev-guest": ("dev/sev-guest", b""),
    "gcp-cs": ("run/container_launcher/teeserver.sock", b""),
    "azure-vtpm": ("sys/class/dmi/id/chassis_asset_tag", b"7783-7084-3265-9085-8269-3286-77\n"),
    "tpm": ("dev/tpmrm0", b""),
}
KINDS = {"gramine": Gramine, "nsm": Nsm, "configfs-tsm": ConfigfsTsm, "sev-guest": SevGuest}


def place(root: Path, *names: str) -> Path:
    """A machine with these sources."""
    for name in names:
        if name == "configfs-tsm":
            (root / "sys/kernel/config/tsm/report").mkdir(parents=True, exist_ok=True)
            continue
        path, content = FILES[name]
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def kernel(provider: bytes = b"sev_guest\n", outblob: bytes | None = None) -> tuple[FakeKernel, object]:
    fake = FakeKernel(provider=provider, outblob=outblob)

    def at(directory: Path) -> TsmFs:
        assert directory.parts[-5:] == ("sys", "kernel", "config", "tsm", "report")
        return fake

    return fake, at


def present(root: Path, tsm: object = None) -> list[str]:
    found = survey(root, tsm=tsm or kernel()[1])  # type: ignore[arg-type]
    return [item.name for item in found if item.present]


def test_everything_is_looked_for_and_told(tmp_path: Path) -> None:
    found = survey(tmp_path)
    assert [item.name for item in found] == ORDER
    assert not any(item.present for item in found)
    assert all(item.looked_for.startswith("/") and len(item.detail) > 20 for item in found)


def test_nothing_found_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(TeeError) as error:
        detect(tmp_path)
    assert error.value.reason is Reason.TEE_DEVICE_MISSING
    for path in ("/dev/nsm", "/sys/kernel/config/tsm/report", "/dev/tpmrm0", "cloister doctor"):
        assert path in error.value.detail


@pytest.mark.parametrize("name", ["gramine", "nsm", "configfs-tsm", "sev-guest"])
def test_each_source_is_found_alone_and_before_those_that_follow(tmp_path: Path, name: str) -> None:
    tsm = kernel()[1]
    place(tmp_path, name)
    assert present(tmp_path, tsm) == [name]
    place(tmp_path, *ORDER[ORDER.index(name) :])
    assert present(tmp_path, tsm) == ORDER[ORDER.index(name) :]
    assert isinstance(detect(tmp_path, tsm=tsm), KINDS[name])  # type: ignore[arg-type]


def test_confidential_space_is_found_with_the_pinned_keys(tmp_path: Path) -> None:
    place(tmp_path, "gcp-cs")
    provisions = Provisions(endorsements=tmp_path)
    with pytest.raises(TeeError, match=r"jwks\.json") as error:
        detect(tmp_path, provisions)
    assert error.value.reason is Reason.TEE_REPORT
    (tmp_path / "jwks.json").write_bytes(b"{}")
    assert isinstance(detect(tmp_path, provisions), GcpConfidentialSpace)


def test_a_vm_of_azure_needs_both_its_tag_and_its_tpm(tmp_path: Path) -> None:
    assert present(place(tmp_path, "azure-vtpm")) == []
    assert present(place(tmp_path, "tpm")) == ["azure-vtpm", "tpm"]
    (tmp_path / FILES["azure-vtpm"][0]).write_bytes(b"another maker\n")
    assert present(tmp_path) == ["tpm"]


def test_a_report_directory_without_a_driver_is_no_source(tmp_path: Path) -> None:
    place(tmp_path, "configfs-tsm")
    assert not any(item.present for item in survey(tmp_path))  # the kernel's own: an entry has no provider
    assert list((tmp_path / "sys/kernel/config/tsm/report").iterdir()) == []


def test_the_survey_says_what_the_kernel_says_and_leaves_nothing_behind(tmp_path: Path) -> None:
    fake, tsm = kernel(b"tdx_guest\n")
    place(tmp_path, "configfs-tsm", "gramine")
    details = {item.name: item.detail for item in survey(tmp_path, tsm=tsm)}  # type: ignore[arg-type]
    assert details["configfs-tsm"] == "provider tdx_guest"
    assert details["gramine"] == "attestation type dcap"
    assert fake.requests == {}


def test_a_source_that_gives_nothing_is_not_replaced_by_the_next(tmp_path: Path) -> None:
    place(tmp_path, "nsm", "sev-guest", "tpm")
    with pytest.raises(TeeError):
        detect(tmp_path).evidence(REPORT_DATA)


@pytest.mark.parametrize("form", ["der", "pem", "jwk"])
def test_a_realms_token_comes_with_the_key_that_the_operator_placed(tmp_path: Path, form: str) -> None:
    forged = cca().forge()
    tsm = kernel(b"arm_cca_guest\n", forged.evidence.report)[1]
    place(tmp_path, "configfs-tsm")
    source = detect(tmp_path, Provisions(endorsements=tmp_path), tsm=tsm)  # type: ignore[arg-type]
    with pytest.raises(TeeError, match="cpak") as error:
        source.evidence(REPORT_DATA)
    assert error.value.reason is Reason.TEE_REPORT
    (tmp_path / "cpak").write_bytes(in_form(form))
    evidence = source.evidence(REPORT_DATA)
    assert evidence == forged.evidence
    assert evidence.format is EvidenceFormat.CCA
    verify(evidence, [forged.root], NOW)


def in_form(form: str) -> bytes:
    public = key("cpak").public_key()
    if form == "der":
        return spki(key("cpak"))
    if form == "pem":
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return jwk(public)


def jwk(public: ec.EllipticCurvePublicKey, **changes: str) -> bytes:
    numbers = public.public_numbers()
    x, y = (urlsafe_b64encode(value.to_bytes(48, "big")).rstrip(b"=").decode() for value in (numbers.x, numbers.y))
    return json.dumps({"kty": "EC", "crv": "P-384", "x": x, "y": y, **changes}).encode()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no key",
        b"{}",
        b"{",
        b"[]",
        bytes(5000),
        b"-----BEGIN PUBLIC KEY-----\n",
        jwk(key("cpak").public_key(), crv="P-256"),
        jwk(key("cpak").public_key(), kty="RSA"),
        jwk(key("cpak").public_key(), x="AA"),
        jwk(key("cpak").public_key(), y="!!"),
        jwk(key("cpak").public_key(), x="A" * 64),
        spki(ec.generate_private_key(ec.SECP256R1())),
    ],
    ids=lambda content: f"{len(content)} bytes",  # the same in every process of a test run: keys are drawn in each
)
def test_what_is_no_platform_key_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        to_spki(content)


def test_a_tpm_quotes_the_registers_that_the_charter_names() -> None:
    tpm_policy = strict_tpm_policy([bytes(32)], selection=(0, 7), bank=Bank.SHA384, keys=[b"\x01" * 32])
    choice = provisions_for(AppraisalPolicy.of(snp=strict_snp_policy([bytes(48)]), tpm=tpm_policy)).pcrs
    assert (choice.bank, choice.indexes) == (Bank.SHA384, (0, 7))
    without = provisions_for(AppraisalPolicy.of(snp=strict_snp_policy([bytes(48)])))
    assert without.pcrs == Provisions().pcrs
