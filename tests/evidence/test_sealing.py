"""The sealing key of each platform, or the word that it has none."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.evidence.test_detection import kernel, place
from trusted.errors import Reason, TeeError
from trusted.evidence.collateral_store import CollateralStore, WithCollateral
from trusted.evidence.configfs_tsm import ConfigfsTsm
from trusted.evidence.detection import detect
from trusted.evidence.devices import WithDevices
from trusted.evidence.gramine import Gramine
from trusted.evidence.nsm import Nsm
from trusted.evidence.provider import EvidenceProvider
from trusted.evidence.sealing import derived_key, sealing_key
from trusted.evidence.sev_guest import SevGuest

LABEL = b"a use"
VCEK, VMRK, VLEK = "vcek", "vmrk", "vlek"
GUEST = MappingProxyType(
    {"policy": b"\0\0\3", "image": b"i", "family": b"f", "measurement": b"m", "svn": b"1", "tcb": b"t"}
)


@dataclass
class FakeProcessor:
    """The ioctl SNP_GET_DERIVED_KEY in front of a processor that mixes exactly the fields that a request selects."""

    chip: bytes = b"chip"
    guest: MappingProxyType[str, bytes] = field(default_factory=lambda: GUEST)
    vmpl: int = 0
    status: int = 0
    error: int = 0
    busy: int = 0
    silent: bool = False
    no_key: bool = False
    calls: int = 0

    def ioctl(self, descriptor: int, request: int, argument: bytearray, mutate: bool) -> int:
        os.fstat(descriptor)  # an open file
        self.calls += 1
        assert (request, mutate, len(argument)) == (0xC0205301, True, 32)
        version, asked, answer, _ = struct.unpack("=B7xQQQ", argument)
        assert version == 1
        root, reserved, fields, vmpl, svn, tcb = struct.unpack("=IIQIIQ", ctypes.string_at(asked, 32))
        assert (reserved, vmpl, svn, tcb) == (0, self.vmpl, 0, 0)
        assert fields < 1 << 6
        if self.busy:
            self.busy -= 1
            argument[24:32] = struct.pack("=Q", 2 << 32)
            raise OSError(errno.EIO, "busy")
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        if not self.silent:
            key = bytes(32) if self.no_key or self.status else self._key(root, fields)
            ctypes.memmove(answer, struct.pack("=I28x32s", self.status, key), 64)
        return 0

    def _key(self, root: int, fields: int) -> bytes:
        kind = VMRK if root & 1 else {0: "either", 1: VCEK, 2: VLEK}[root >> 1]
        mixed = [self.guest[name] if fields >> place & 1 else b"" for place, name in enumerate(GUEST)]
        return sha256(repr((kind, self.chip, mixed)).encode()).digest()

    def changed(self, **guest: bytes) -> FakeProcessor:
        return replace(self, guest=MappingProxyType({**self.guest, **guest}))


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "sev-guest"
    path.touch()
    return path


def snp(device: Path, processor: FakeProcessor, waited: list[float] | None = None) -> SevGuest:
    waited = [] if waited is None else waited
    return SevGuest(device, vmpl=processor.vmpl, ioctl=processor.ioctl, pause=waited.append)


def refused(provider: EvidenceProvider) -> TeeError:
    with pytest.raises(TeeError) as error:
        sealing_key(provider, LABEL)
    return error.value


def test_each_label_has_a_key_of_its_own() -> None:
    labels = (b"", b"a", b"b", b"ab", b"a\0")
    roots = (b"r" * 32, b"q" * 32, b"r" * 16)
    keys = {derived_key(root, label) for root in roots for label in labels}
    assert len(keys) == len(labels) * len(roots)
    assert {len(key) for key in keys} == {32}


def test_snp_the_same_guest_on_the_same_chip_gets_its_key_again_also_after_an_update_of_firmware(device: Path) -> None:
    first = snp(device, FakeProcessor()).sealing_key(LABEL)
    assert len(first) == 32
    assert snp(device, FakeProcessor()).sealing_key(LABEL) == first
    assert snp(device, FakeProcessor().changed(tcb=b"newer")).sealing_key(LABEL) == first


@pytest.mark.parametrize(
    "other",
    [
        FakeProcessor(chip=b"another chip"),
        FakeProcessor().changed(measurement=b"other code"),
        FakeProcessor().changed(policy=b"debugging allowed"),
        FakeProcessor().changed(image=b"other"),
        FakeProcessor().changed(family=b"other"),
    ],
    ids=["chip", "measurement", "policy", "image", "family"],
)
def test_snp_another_guest_or_chip_gets_another_key(device: Path, other: FakeProcessor) -> None:
    assert snp(device, other).sealing_key(LABEL) != snp(device, FakeProcessor()).sealing_key(LABEL)


def test_snp_the_key_is_rooted_in_the_machine_and_is_never_the_processors_own_answer(device: Path) -> None:
    processor = FakeProcessor()
    key = snp(device, processor).sealing_key(LABEL)
    roots = {processor._key(root, 0b1111) for root in (0, 1, 2, 4)}
    assert key == derived_key(processor._key(0b010, 0b1111), LABEL)
    assert key not in roots


@pytest.mark.parametrize("vmpl", [0, 1, 3])
def test_snp_the_key_is_of_the_privilege_level_that_asks(device: Path, vmpl: int) -> None:
    assert snp(device, FakeProcessor(vmpl=vmpl)).sealing_key(LABEL)


def test_snp_a_busy_host_is_asked_again_within_bounds(device: Path) -> None:
    processor, waited = FakeProcessor(busy=2), list[float]()
    assert snp(device, processor, waited).sealing_key(LABEL) == snp(device, FakeProcessor()).sealing_key(LABEL)
    assert (processor.calls, len(waited)) == (3, 2)
    stays = FakeProcessor(busy=1000)
    assert refused(snp(device, stays)).reason is Reason.TEE_REPORT
    assert stays.calls == 8


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (FakeProcessor(status=0x27), Reason.TEE_NO_SEALING),
        (FakeProcessor(status=0x16), Reason.TEE_REPORT),
        (FakeProcessor(status=0xFFFFFFFF), Reason.TEE_REPORT),
        (FakeProcessor(no_key=True), Reason.TEE_REPORT),
        (FakeProcessor(silent=True), Reason.TEE_REPORT),
        (FakeProcessor(error=errno.EIO), Reason.TEE_REPORT),
        (FakeProcessor(error=errno.ENOTTY), Reason.TEE_REPORT),
        (FakeProcessor(error=errno.ENODEV), Reason.TEE_DEVICE_MISSING),
    ],
    ids=["withheld", "parameters", "status", "zeros", "unwritten", "EIO", "ENOTTY", "ENODEV"],
)
def test_snp_no_key_is_an_error_and_never_a_key(device: Path, processor: FakeProcessor, reason: Reason) -> None:
    assert refused(snp(device, processor)).reason is reason


def test_snp_without_its_device_is_an_error(tmp_path: Path) -> None:
    assert refused(SevGuest(tmp_path / "none")).reason is Reason.TEE_DEVICE_MISSING


def test_configfs_tsm_takes_the_key_from_the_device_beside_it(tmp_path: Path, device: Path) -> None:
    fake, tsm = kernel()
    beside = snp(device, FakeProcessor())
    assert ConfigfsTsm(fake, sealing=beside).sealing_key(LABEL) == beside.sealing_key(LABEL)
    assert refused(ConfigfsTsm(fake)).reason is Reason.TEE_NO_SEALING
    found = detect(place(tmp_path, "configfs-tsm"), tsm=tsm)  # type: ignore[arg-type]
    assert refused(found).reason is Reason.TEE_NO_SEALING
    found = detect(place(tmp_path, "sev-guest"), tsm=tsm)  # type: ignore[arg-type]
    assert isinstance(found, ConfigfsTsm)
    assert refused(found).reason is Reason.TEE_REPORT  # it is asked, and a plain file knows no ioctl


@pytest.fixture
def gramine(tmp_path: Path) -> Path:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "_sgx_mrenclave").write_bytes(bytes(range(16)))
    return tmp_path


def test_gramine_the_key_follows_the_enclaves_seal_key(gramine: Path) -> None:
    first = sealing_key(Gramine(lambda _: b"", gramine), LABEL)
    assert first == derived_key(bytes(range(16)), LABEL)
    assert sealing_key(Gramine(lambda _: b"", gramine), LABEL) == first
    (gramine / "keys" / "_sgx_mrenclave").write_bytes(bytes(range(1, 17)))
    assert sealing_key(Gramine(lambda _: b"", gramine), LABEL) != first


@pytest.mark.parametrize("content", [b"", bytes(16), b"k" * 15, b"k" * 17, b"k" * (1 << 20)])
def test_gramine_another_file_is_no_key(gramine: Path, content: bytes) -> None:
    (gramine / "keys" / "_sgx_mrenclave").write_bytes(content)
    assert refused(Gramine(lambda _: b"", gramine)).reason is Reason.TEE_REPORT


def test_gramine_without_the_file_has_no_sealing_key(tmp_path: Path) -> None:
    assert refused(Gramine(lambda _: b"", tmp_path)).reason is Reason.TEE_NO_SEALING


def test_a_platform_without_a_sealing_key_says_so_and_nothing_stands_in(tmp_path: Path) -> None:
    nitro = Nsm(tmp_path / "nsm")
    store = CollateralStore(tmp_path)
    for provider in (nitro, WithDevices(nitro, nitro), WithCollateral(nitro, store)):
        error = refused(provider)
        assert error.reason is Reason.TEE_NO_SEALING
        assert "Nsm" in error.detail


def test_devices_and_collateral_beside_a_tee_do_not_change_its_key(tmp_path: Path, device: Path) -> None:
    tee = snp(device, FakeProcessor())
    for provider in (WithDevices(tee, Nsm(device)), WithCollateral(tee, CollateralStore(tmp_path))):
        assert sealing_key(provider, LABEL) == tee.sealing_key(LABEL)
