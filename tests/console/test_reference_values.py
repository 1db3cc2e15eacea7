"""Reference values: images built here by their specifications, and what each byte of them does to the values."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from typer.testing import CliRunner

from console.commands.measure import app
from console.documents import load_charter, load_plan
from console.eif import measure_eif
from console.launch_digest import Hypervisor, SnpGuest, measure_snp
from console.output import UserError
from console.portable_executable import read_executable
from console.reference_values import initdata_digest
from console.uki import measure_uki
from tests.console.conftest import Cloister, Consortium
from trusted.attestation.binding import host_data
from trusted.attestation.formats import cbor
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.policies.nitro import NitroPolicy, strict_nitro_policy

KERNEL, CMDLINE, RAMDISK, SIGNATURE, METADATA = 1, 2, 3, 4, 5


def eif(*sections: tuple[int, bytes], version: int = 4) -> bytes:
    """An EIF as aws-nitro-enclaves-image-format writes it."""
    body, offsets = b"", []
    for kind, content in sections:
        offsets.append(548 + len(body))
        body += struct.pack(">HHQ", kind, 0, len(content)) + content
    sizes = [len(content) for _, content in sections]
    padded = [*offsets, *[0] * (32 - len(offsets))], [*sizes, *[0] * (32 - len(sizes))]
    head = struct.pack(">4sHHQQHH", b".eif", version, 0, 1 << 30, 2, 0, len(sections))
    head += struct.pack(">32Q32QI", *padded[0], *padded[1], 0)
    return head + struct.pack(">I", zlib.crc32(head + body)) + body


IMAGE = ((KERNEL, b"kernel"), (CMDLINE, b"console=ttyS0"), (METADATA, b"{}"), (RAMDISK, b"init"), (RAMDISK, b"app"))


def register(*contents: bytes) -> str:
    """One extension of zero, as AWS has it."""
    return hashlib.sha384(bytes(48) + hashlib.sha384(b"".join(contents)).digest()).hexdigest()


def test_registers_of_an_enclave_image() -> None:
    values = measure_eif(eif(*IMAGE))
    assert dict(values.parts) == {
        "PCR0": register(b"kernel", b"console=ttyS0", b"init", b"app"),
        "PCR1": register(b"kernel", b"console=ttyS0", b"init"),
        "PCR2": register(b"app"),
    }
    assert values.measurement.hex() == dict(values.parts)["PCR0"]


def test_the_fragment_of_an_enclave_image_is_a_policys() -> None:
    fragment: Any = measure_eif(eif(*IMAGE)).fragment()["nitro"]
    policy = NitroPolicy.from_json({**strict_nitro_policy([bytes(48)]).to_json(), **fragment})
    assert policy.measurements[0].value.hex() == register(b"kernel", b"console=ttyS0", b"init", b"app")
    assert isinstance(policy.pcr2, tuple)


def test_a_signed_image_names_its_certificate() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "signer")])
    now = datetime(2026, 11, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    certificate = builder.sign(key, hashes.SHA384())
    pem = certificate.public_bytes(Encoding.PEM)
    # serde writes a vector of bytes as a list of numbers.
    entry: cbor.Value = {"signing_certificate": tuple(pem), "signature": tuple(b"sig")}
    values = dict(measure_eif(eif(*IMAGE, (SIGNATURE, cbor.encode((entry,))))).parts)
    assert values["PCR8"] == register(certificate.public_bytes(Encoding.DER))
    assert values["PCR0"] == dict(measure_eif(eif(*IMAGE)).parts)["PCR0"]
    with pytest.raises(UserError):
        measure_eif(eif(*IMAGE, (SIGNATURE, b"\xff")))


def test_every_measured_section_counts_and_metadata_does_not() -> None:
    before = measure_eif(eif(*IMAGE)).measurement
    for place, (kind, content) in enumerate(IMAGE):
        changed = [*IMAGE]
        changed[place] = (kind, content + b"!")
        assert (measure_eif(eif(*changed)).measurement == before) == (kind == METADATA)


@pytest.mark.parametrize("offset", [0, 6, 100, 540, 547, 548, 560, 600])
def test_a_damaged_image_is_refused(offset: int) -> None:
    image = eif(*IMAGE)
    with pytest.raises(UserError):
        measure_eif(image[:offset] + bytes([image[offset] ^ 1]) + image[offset + 1 :])


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b".eif",
        eif(*IMAGE)[:-1],
        eif(*IMAGE) + b"\0",
        eif(),
        eif((KERNEL, b"k")),
        eif((6, b"k"), *IMAGE),
        eif((0, b"k"), *IMAGE),
    ],
)
def test_what_is_no_image_is_refused(image: bytes) -> None:
    with pytest.raises(UserError):
        measure_eif(image)


def pe(sections: dict[str, bytes], *, checksum: int = 0, signature: bytes = b"", trailing: bytes = b"") -> bytes:
    """The least PE32+ file that holds ``sections``, each padded to 512 bytes."""
    headers_size = 0x400
    head = b"MZ".ljust(0x3C, b"\0") + struct.pack("<I", 0x40)
    optional = struct.pack("<H", 0x20B).ljust(60, b"\0") + struct.pack("<II", headers_size, checksum)
    optional = optional.ljust(108, b"\0") + struct.pack("<I", 16)
    body, table = b"", b""
    for name, content in sections.items():
        raw = content.ljust(-(-len(content) // 512) * 512, b"\0")
        table += struct.pack(
            "<8sIIII16x", name.encode(), len(content), 0x1000, len(raw), headers_size + len(body) if raw else 0
        )
        body += raw
    end = headers_size + len(body) + len(trailing)
    directories = [(0, 0)] * 16
    directories[4] = (end if signature else 0, len(signature))
    optional += b"".join(struct.pack("<II", *entry) for entry in directories)
    coff = struct.pack("<HH12xHH", 0x8664, len(sections), len(optional), 0)
    headers = (head + b"PE\0\0" + coff + optional + table).ljust(headers_size, b"\0")
    return headers + body + trailing + signature


KERNEL_IMAGE = pe({".text": b"kernel code"})
SECTIONS = {
    ".text": b"stub",
    ".osrel": b"ID=cloister\n",
    ".cmdline": b"console=ttyS0 roothash=00 \n\0",
    ".initrd": b"initrd",
    ".linux": KERNEL_IMAGE,
}


def extended(*events: bytes, bank: str = "sha256") -> str:
    value = bytes(hashlib.new(bank).digest_size)
    for event in events:
        value = hashlib.new(bank, value + hashlib.new(bank, event).digest()).digest()
    return value.hex()


def authenticode(image: bytes) -> bytes:
    """What the digest is over, for the files of :func:`pe` that have no signature: all but two gaps in the headers."""
    optional = 0x40 + 24
    return image[: optional + 64] + image[optional + 68 : optional + 144] + image[optional + 152 :]


@pytest.mark.parametrize("bank", list(Bank))
def test_registers_of_a_unified_kernel_image(bank: Bank) -> None:
    image = pe(SECTIONS)
    values = dict(measure_uki(image, bank=bank).parts)
    action = b"Calling EFI Application from Boot Option"
    events = (action, bytes(4), authenticode(image), authenticode(KERNEL_IMAGE))
    assert values["PCR4"] == extended(*events, bank=bank.label)
    cmdline = "console=ttyS0 roothash=00\0".encode("utf-16-le")
    assert values["PCR9"] == extended(cmdline, b"initrd", bank=bank.label)
    stub = [
        part for name in (".linux", ".osrel", ".cmdline", ".initrd") for part in (name.encode() + b"\0", SECTIONS[name])
    ]
    assert values["PCR11"] == extended(*stub, bank=bank.label)


def test_phases_go_into_register_11_alone() -> None:
    before, after = (dict(measure_uki(pe(SECTIONS), phases=phases).parts) for phases in ((), ("enter-initrd",)))
    assert {name for name in before if before[name] != after[name]} == {"PCR11"}
    digest = hashlib.sha256(b"enter-initrd").digest()
    assert after["PCR11"] == hashlib.sha256(bytes.fromhex(before["PCR11"]) + digest).hexdigest()


def test_the_measurement_is_what_a_quote_sums_up() -> None:
    values = measure_uki(pe(SECTIONS))
    quoted = hashlib.sha256(b"".join(bytes.fromhex(value) for _, value in values.parts)).digest()
    assert values.measurement == quoted
    fragment: Any = values.fragment()["tpm"]
    assert fragment["pcrs"]["selection"] == [4, 9, 11]
    assert fragment["measurements"] == [{"value": quoted.hex(), "until": None}]


def test_signing_an_image_does_not_change_what_it_measures_to() -> None:
    for other in (
        pe(SECTIONS, checksum=7),
        pe(SECTIONS, signature=b"s" * 64),
        pe(SECTIONS, checksum=7, signature=b"s" * 8),
    ):
        assert measure_uki(other).parts == measure_uki(pe(SECTIONS)).parts
    assert measure_uki(pe(SECTIONS, trailing=b"t" * 8)).parts != measure_uki(pe(SECTIONS)).parts


@pytest.mark.parametrize("name", list(SECTIONS))
def test_every_section_counts(name: str) -> None:
    other = {**SECTIONS, name: pe({".text": b"another kernel"}) if name == ".linux" else SECTIONS[name] + b"!"}
    assert measure_uki(pe(other)).measurement != measure_uki(pe(SECTIONS)).measurement


@pytest.mark.parametrize(
    "image",
    [
        b"",
        b"MZ",
        b"MZ" + bytes(100),
        pe(SECTIONS)[:0x60],
        pe(SECTIONS)[:0x500],
        pe({".text": b"no kernel"}),
        pe({**SECTIONS, ".linux": b"no PE"}),
        pe(SECTIONS).replace(b"\x0b\x02", b"\x0b\x03", 1),
    ],
)
def test_what_is_no_unified_kernel_image_is_refused(image: bytes) -> None:
    with pytest.raises(UserError):
        measure_uki(image)


def test_a_section_is_as_long_as_in_memory() -> None:
    executable = read_executable(pe(SECTIONS))
    assert executable.content(".osrel") == b"ID=cloister\n"
    assert executable.content(".nothing") is None


def initdata(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "initdata.toml"
    path.write_text(text)
    return path


GOOD = 'algorithm = "{}"\nversion = "0.1.0"\n\n[data]\n"aa.toml" = "x"\n'


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_initdata_is_digested_by_the_algorithm_that_it_names(tmp_path: Path, algorithm: str) -> None:
    path = initdata(tmp_path, GOOD.format(algorithm))
    assert initdata_digest(path) == (algorithm, hashlib.new(algorithm, path.read_bytes()).digest())


@pytest.mark.parametrize(
    "text", ["", "no toml", GOOD.format("md5"), GOOD.format("sha256").replace("0.1.0", "0.2.0"), 'algorithm = "sha256"']
)
def test_what_is_no_initdata_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError):
        initdata_digest(initdata(tmp_path, text))


def guid(text: str) -> bytes:
    return UUID(text).bytes_le


def firmware() -> bytes:
    """The least OVMF that a SEV-SNP guest can start with: metadata, hash table, reset vector, and their footer."""
    size = 0x2000
    image = bytearray(size)
    sections = [(0x800000, 0x1000, 1), (0x801000, 0x1000, 2), (0x802000, 0x1000, 3), (0x803000, 0x1000, 0x10)]
    metadata = struct.pack("<4sIII", b"ASEV", 16 + 12 * len(sections), 1, len(sections))
    metadata += b"".join(struct.pack("<III", *section) for section in sections)
    image[0x1000 : 0x1000 + len(metadata)] = metadata
    entries = (
        (struct.pack("<I", 0x803000) + struct.pack("<I", 0x400), "7255371f-3a3b-4b04-927b-1da6efa8d454"),
        (struct.pack("<I", 0x80B004), "00f771de-1a7e-4fcb-890e-68c77e2fb44e"),
        (struct.pack("<I", size - 0x1000), "dc886566-984a-4798-a75e-5585a7bf67cc"),
    )
    table = b"".join(data + struct.pack("<H", len(data) + 18) + guid(name) for data, name in entries)
    table += struct.pack("<H", len(table) + 18) + guid("96b582de-1fb2-45f7-baea-a366c55a082d")
    image[size - 32 - len(table) : size - 32] = table
    return bytes(image)


@pytest.fixture
def guest(tmp_path: Path) -> SnpGuest:
    pytest.importorskip("sevsnpmeasure")
    for name, content in (("ovmf", firmware()), ("kernel", b"kernel"), ("initrd", b"initrd")):
        (tmp_path / name).write_bytes(content)
    return SnpGuest(
        tmp_path / "ovmf", 2, "EPYC-v4", kernel=tmp_path / "kernel", initrd=tmp_path / "initrd", append="ro"
    )


def test_a_launch_digest_depends_on_everything_that_is_launched(guest: SnpGuest, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    other_firmware = tmp_path / "other-ovmf"
    other_firmware.write_bytes(b"\1" + firmware()[1:])
    variants = [
        guest,
        replace(guest, vcpus=3),
        replace(guest, vcpu_type="EPYC-Genoa"),
        replace(guest, hypervisor=Hypervisor.EC2),
        replace(guest, kernel=tmp_path / "other"),
        replace(guest, initrd=tmp_path / "other"),
        replace(guest, append="rw"),
        replace(guest, firmware=other_firmware),
        replace(guest, kernel=None, initrd=None, append=""),
    ]
    digests = [measure_snp(variant).measurement for variant in variants]
    assert len(set(digests)) == len(digests)
    assert all(len(digest) == 48 for digest in digests)
    assert measure_snp(guest).measurement == digests[0]


def test_what_cannot_be_launched_is_refused_with_what_to_do(guest: SnpGuest, tmp_path: Path) -> None:
    (tmp_path / "broken").write_bytes(bytes(0x2000))
    for wrong in (
        replace(guest, vcpus=0),
        replace(guest, vcpu_type="Pentium"),
        replace(guest, kernel=None),
        replace(guest, firmware=tmp_path / "broken"),
    ):
        with pytest.raises(UserError) as error:
            measure_snp(wrong)
        assert error.value.hint
    with pytest.raises(FileNotFoundError):
        measure_snp(replace(guest, kernel=tmp_path / "absent"))


def run(*arguments: str) -> Any:
    result = CliRunner().invoke(app, [*arguments, "--json"])
    return json.loads(result.stdout)


def test_each_command_prints_its_values_and_how_far_they_were_checked(tmp_path: Path, guest: SnpGuest) -> None:
    (tmp_path / "image.eif").write_bytes(eif(*IMAGE))
    (tmp_path / "image.efi").write_bytes(pe(SECTIONS))
    answers = {
        "nitro": run("nitro", str(tmp_path / "image.eif"), "--fragment"),
        "tpm": run("uki", str(tmp_path / "image.efi"), "--fragment"),
        "snp": run("snp", "--ovmf", str(guest.firmware), "--vcpus", "2", "--vcpu-type", "EPYC-v4", "--fragment"),
    }
    for format, answer in answers.items():
        assert answer["status"] == "ok"
        assert answer["data"]["format"] == format
        assert "compared" in answer["data"]["verified"]
        fragment = answer["data"]["fragment"][format]
        assert fragment["measurements"] == [{"value": answer["data"]["measurement"], "until": None}]
    printed = CliRunner().invoke(app, ["nitro", str(tmp_path / "image.eif"), "--fragment"]).stdout
    assert json.loads(printed) == answers["nitro"]["data"]["fragment"]


def test_a_bad_image_is_an_error_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "image.eif").write_bytes(b"no image")
    answer = run("nitro", str(tmp_path / "image.eif"))
    assert answer["status"] == "error"
    assert "nitro-cli" in answer["error"]["hint"]


def test_what_a_machine_is_launched_with_binds_role_charter_and_plan(planned: Consortium, cloister: Cloister) -> None:
    papers = planned / "charter.dsse.json", planned / "plan.dsse.json"
    answers = {role: cloister("measure", "host-data", role, *papers).data for role in ("worker", "aggregator")}
    charter = load_charter(papers[0])
    plan = load_plan(papers[1], charter)
    for role, answer in answers.items():
        expected = host_data(role, charter.digest, plan.digest)
        assert answer["host_data"] == expected.hex()
        assert answer["mrconfigid"] == expected.hex() + "00" * 16
        assert answer["personalization"] == expected.hex() + "00" * 32
    assert answers["worker"] != answers["aggregator"]
    assert cloister("measure", "host-data", "worker", papers[1], papers[0]).code != 0
