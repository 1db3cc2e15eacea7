"""A TEE and its TPM under one challenge, through real handshakes and a real swtpm; every neighbour must fail (§3.2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.attestation.swtpm import software_tpm
from tests.world import AGGREGATOR_MEASUREMENT, NOW, WORKER_MEASUREMENT, World, policy
from trusted.attestation.composite import EvidenceBundle, OpenTranscript
from trusted.attestation.device_policy import DeviceRule
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.formats.tcg_event_log import Bank
from trusted.attestation.formats.tpm import Scheme, parse_public
from trusted.attestation.policies.rules import Skip
from trusted.attestation.policies.tpm import TpmPolicy, strict_tpm_policy
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.roots import Assurance, TrustRoot
from trusted.attestation.verify.tpm import key_sha256, public_key
from trusted.channel.aggregator import AggregatorChannel
from trusted.channel.session import Identity
from trusted.channel.worker import WorkerChannel
from trusted.errors import ProtocolError, Reason, WireError
from trusted.evidence.devices import TpmDevice, WithDevices
from trusted.evidence.tpm import PcrChoice, TpmEvidence
from trusted.evidence.tpm_client import TpmClient

PCR = 11
CHOICE = PcrChoice(Bank.SHA256, (PCR,))
BOOTED = b"\x77" * 32
Devices = Callable[[bytes], tuple[Evidence, ...]]


@dataclass(frozen=True)
class Machine:
    """One TPM that has booted something."""

    client: TpmClient
    evidence: TpmEvidence

    @property
    def key(self) -> bytes:
        return key_of(self.evidence)

    def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
        return TpmDevice(self.evidence).devices(challenge)


def key_of(evidence: TpmEvidence) -> bytes:
    return key_sha256(public_key(parse_public(evidence.ak.public)))


@pytest.fixture
def machine(tmp_path: Any) -> Iterator[Machine]:
    with software_tpm(tmp_path) as client:
        client.extend_pcr(PCR, Bank.SHA256, BOOTED)
        yield Machine(client, TpmEvidence(client, CHOICE))


@pytest.fixture
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Another machine that has booted the same."""
    with software_tpm(tmp_path_factory.mktemp("other")) as client:
        client.extend_pcr(PCR, Bank.SHA256, BOOTED)
        yield Machine(client, TpmEvidence(client, CHOICE))


def tpm_policy(*keys: bytes, booted: bytes = BOOTED) -> TpmPolicy:
    value = Bank.SHA256.digest(bytes(32) + booted)
    strict = strict_tpm_policy([Bank.SHA256.digest(value)], selection=(PCR,), keys=keys, assurance=Assurance.NONE)
    return replace(strict, event_log=Skip("no firmware ran"))


def with_tpm(measurement: bytes, rule: DeviceRule) -> AppraisalPolicy:
    return AppraisalPolicy(policy(measurement).platforms, {EvidenceFormat.TPM: rule})


def world_of(root: Any, chip: Any, *machines: Machine, low: int = 1, booted: bytes = BOOTED) -> World:
    """Workers hold one of these TPMs, for which the members vouch; the aggregator holds none."""
    keys = [machine.key for machine in machines]
    rule = DeviceRule(low, 1, tpm_policy(*keys, booted=booted))
    roots = (root.trust_root, *(TrustRoot(EvidenceFormat.TPM, "swtpm", key) for key in keys))
    return World(root, chip, charter_changes={"roots": roots, "worker": with_tpm(WORKER_MEASUREMENT, rule)})


def worker_of(world: World, devices: Devices, member: str = "site-1") -> WorkerChannel:
    identity = Identity.generate(replace(world.provider("worker"), gpus=devices))
    return WorkerChannel(world.federation, identity, world.membership(member))


def aggregator_of(world: World, devices: Devices = lambda _: ()) -> AggregatorChannel:
    identity = Identity.generate(replace(world.provider("aggregator"), gpus=devices))
    return AggregatorChannel(world.federation, identity, NOW)


def joined(worker: WorkerChannel, aggregator: AggregatorChannel) -> None:
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    (join,) = worker.receive(offer, NOW).replies
    (welcome,) = aggregator.receive(join, NOW).replies
    worker.receive(welcome, NOW)
    aggregator.receive(worker.session.send({"type": "ready"}), NOW)


def refused_join(world: World, devices: Devices) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        joined(worker_of(world, devices), aggregator_of(world))
    return caught.value.reason


def test_a_worker_with_its_tpm_is_admitted(software_root: Any, chip: Any, machine: Machine) -> None:
    world = world_of(software_root, chip, machine)
    worker, aggregator = worker_of(world, machine.devices), aggregator_of(world)
    joined(worker, aggregator)
    (device,) = aggregator.peer.result.devices
    assert (device.format, device.hardware_id) == (EvidenceFormat.TPM, machine.key)
    assert aggregator.peer.result.format is EvidenceFormat.SNP


def test_a_missing_tpm_is_refused(software_root: Any, chip: Any, machine: Machine) -> None:
    assert refused_join(world_of(software_root, chip, machine), lambda _: ()) is Reason.DEVICE_COUNT


def test_two_quotes_of_one_tpm_are_refused(software_root: Any, chip: Any, machine: Machine) -> None:
    """Even under two keys, both of them vouched for: a machine has one TPM."""
    second = TpmEvidence(machine.client, CHOICE, ak=machine.client.create_ak(Scheme.RSASSA_SHA256))
    world = world_of(software_root, chip, machine, replace(machine, evidence=second))
    assert refused_join(world, lambda challenge: machine.devices(challenge) * 2) is Reason.DEVICE_COUNT
    both: Devices = lambda challenge: (machine.evidence.evidence(challenge), second.evidence(challenge))  # noqa: E731
    assert refused_join(world, both) is Reason.DEVICE_COUNT


def test_a_tpm_that_nobody_asked_for_is_refused(software_root: Any, chip: Any, machine: Machine) -> None:
    world = World(software_root, chip)
    assert refused_join(world, machine.devices) is Reason.DEVICE_COUNT
    with pytest.raises(ProtocolError) as caught:
        joined(worker_of(world, lambda _: ()), aggregator_of(world, machine.devices))
    assert caught.value.reason is Reason.DEVICE_COUNT


def test_a_tpm_that_may_be_left_out_may_be_left_out(software_root: Any, chip: Any, machine: Machine) -> None:
    world = world_of(software_root, chip, machine, low=0)
    for devices in (machine.devices, lambda _: ()):
        joined(worker_of(world, devices), aggregator_of(world))
    assert refused_join(world, lambda _: machine.devices(bytes(64))) is Reason.REPORT_DATA


def test_a_quote_over_another_nonce_is_refused(software_root: Any, chip: Any, machine: Machine) -> None:
    world = world_of(software_root, chip, machine)
    assert refused_join(world, lambda _: machine.devices(bytes(64))) is Reason.REPORT_DATA


def test_a_quote_of_another_handshake_is_refused(software_root: Any, chip: Any, machine: Machine) -> None:
    world = world_of(software_root, chip, machine)
    given: list[tuple[Evidence, ...]] = []

    def kept(challenge: bytes) -> tuple[Evidence, ...]:
        given.append(machine.devices(challenge))
        return given[-1]

    joined(worker_of(world, kept), aggregator_of(world))
    assert refused_join(world, lambda _: given[0]) is Reason.REPORT_DATA


def test_quotes_swapped_between_two_workers_are_refused(
    software_root: Any, chip: Any, machine: Machine, other: Machine
) -> None:
    """Both handshakes run at once, and each worker's host shows the other's TPM."""
    world = world_of(software_root, chip, machine, other)
    given: list[tuple[Evidence, ...]] = []

    def theirs(challenge: bytes) -> tuple[Evidence, ...]:
        given.append(other.devices(challenge))
        return given[-1]

    honest, aggregator = worker_of(world, theirs, "site-2"), aggregator_of(world)
    (offer,) = aggregator.receive(honest.begin(), NOW).replies
    honest.receive(offer, NOW)
    assert refused_join(world, lambda _: given[0]) is Reason.REPORT_DATA


def test_a_quote_that_answers_the_tees_own_report_data_is_refused(
    software_root: Any, chip: Any, machine: Machine
) -> None:
    """A TPM's quote as a TEE's evidence is over other bytes than its quote as a device's."""
    from trusted.attestation.binding import report_data

    world = world_of(software_root, chip, machine)
    transcript = OpenTranscript((b"worker", b"a"))
    quote = machine.evidence.evidence(report_data(transcript.over(())))
    provider = replace(world.provider("worker"), gpus=lambda _: (quote,))
    with pytest.raises(ProtocolError) as caught:
        world.federation.appraise("worker", EvidenceBundle.collect(provider, transcript), transcript, NOW)
    assert caught.value.reason is Reason.REPORT_DATA


def test_another_pcr_value_is_refused(software_root: Any, chip: Any, machine: Machine) -> None:
    world = world_of(software_root, chip, machine, booted=b"\x78" * 32)
    assert refused_join(world, machine.devices) is Reason.MEASUREMENT


def test_other_pcrs_than_the_charters_are_refused(software_root: Any, chip: Any, machine: Machine) -> None:
    world = world_of(software_root, chip, machine)
    for choice in (PcrChoice(Bank.SHA256, (10,)), PcrChoice(Bank.SHA256, (10, 11)), PcrChoice(Bank.SHA384, (PCR,))):
        evidence = TpmEvidence(machine.client, choice, ak=machine.evidence.ak)
        assert refused_join(world, TpmDevice(evidence).devices) is Reason.RUNTIME_MEASUREMENT


def test_the_tpm_of_a_machine_that_the_charter_does_not_know_is_refused(
    software_root: Any, chip: Any, machine: Machine, other: Machine
) -> None:
    assert refused_join(world_of(software_root, chip, machine), other.devices) is Reason.TRUST_ANCHOR


def test_evidence_of_another_format_in_the_tpms_place_is_refused(
    software_root: Any, chip: Any, machine: Machine
) -> None:
    world = world_of(software_root, chip, machine)
    provider = world.provider("worker")
    assert refused_join(world, lambda _: (provider.evidence(bytes(64)),)) is Reason.EVIDENCE_FORMAT
    renamed: Devices = lambda c: (replace(machine.evidence.evidence(c), format=EvidenceFormat.NVIDIA_GPU),)  # noqa: E731
    assert refused_join(world, renamed) is Reason.DEVICE_COUNT


def test_a_tpm_alone_is_refused_where_it_is_asked_for_as_a_device(
    software_root: Any, chip: Any, machine: Machine
) -> None:
    world = world_of(software_root, chip, machine)
    transcript = OpenTranscript((b"worker", b"a"))
    both = WithDevices(machine.evidence, TpmDevice(machine.evidence))
    for prover, reason in ((machine.evidence, Reason.DEVICE_COUNT), (both, Reason.EVIDENCE_FORMAT)):
        with pytest.raises(ProtocolError) as caught:
            world.federation.appraise("worker", EvidenceBundle.collect(prover, transcript), transcript, NOW)
        assert caught.value.reason is reason


def test_a_tpm_in_the_tees_place_still_admits_where_the_charter_says_so(
    software_root: Any, chip: Any, machine: Machine
) -> None:
    alone = AppraisalPolicy.of(tpm=tpm_policy(machine.key))
    roots = (software_root.trust_root, TrustRoot(EvidenceFormat.TPM, "swtpm", machine.key))
    world = World(software_root, chip, charter_changes={"roots": roots, "worker": alone})
    transcript = OpenTranscript((b"worker", b"a"))
    bundle = EvidenceBundle.collect(machine.evidence, transcript)
    assert world.federation.appraise("worker", bundle, transcript, NOW).format is EvidenceFormat.TPM
    twice = EvidenceBundle.collect(WithDevices(machine.evidence, TpmDevice(machine.evidence)), transcript)
    with pytest.raises(ProtocolError) as caught:
        world.federation.appraise("worker", twice, transcript, NOW)
    assert caught.value.reason is Reason.DEVICE_COUNT


def test_what_is_measured_after_admission_ends_the_session_at_reattestation(
    software_root: Any, chip: Any, machine: Machine
) -> None:
    world = world_of(software_root, chip, machine)
    worker, aggregator = worker_of(world, machine.devices), aggregator_of(world)
    joined(worker, aggregator)
    for extended, reason in ((False, None), (True, Reason.MEASUREMENT)):
        if extended:
            machine.client.extend_pcr(PCR, Bank.SHA256, bytes(32))
        challenge = aggregator.session.challenge()
        assert challenge is not None
        (answer,) = worker.receive(challenge, NOW).replies
        if reason is None:
            aggregator.receive(answer, NOW)
            continue
        with pytest.raises(ProtocolError) as caught:
            aggregator.receive(answer, NOW)
        assert caught.value.reason is reason


def test_a_tees_own_devices_come_before_those_that_are_added(software_root: Any, chip: Any, machine: Machine) -> None:
    """Wrapping a machine that holds devices already drops none of them."""
    one = WithDevices(WithDevices(machine.evidence, TpmDevice(machine.evidence)), TpmDevice(machine.evidence))
    assert [device.format for device in one.devices(bytes(64))] == [EvidenceFormat.TPM] * 2


# The policy.


def test_the_rule_for_a_tpm_reads_as_it_was_written() -> None:
    whole = with_tpm(AGGREGATOR_MEASUREMENT, DeviceRule(0, 1, tpm_policy(b"\x55" * 32)))
    assert AppraisalPolicy.from_json(whole.to_json()) == whole


def test_an_unset_knob_a_count_above_one_and_a_rule_without_a_count_are_refused() -> None:
    json = with_tpm(AGGREGATOR_MEASUREMENT, DeviceRule(1, 1, tpm_policy(b"\x55" * 32))).to_json()
    rule: dict[str, Any] = dict(json["devices"]["tpm"])  # type: ignore[index, call-overload, arg-type]
    changes = [{key: value for key, value in rule.items() if key != gone} for gone in rule]
    changes += [rule | {"count": {"min": 1, "max": 2}}, rule | {"count": {"min": 0, "max": 0}}, rule | {"more": 1}]
    for changed in changes:
        with pytest.raises(WireError):
            AppraisalPolicy.from_json(json | {"devices": {"tpm": changed}})
    assert AppraisalPolicy.from_json(json | {"devices": {"tpm": rule}})


def test_a_tpm_is_named_beside_the_tee_or_in_its_place_and_never_as_both() -> None:
    tpm = tpm_policy(b"\x55" * 32)
    beside, alone = DeviceRule(1, 1, tpm), AppraisalPolicy.of(tpm=tpm)
    with pytest.raises(WireError, match="not named as both"):
        AppraisalPolicy(alone.platforms, {EvidenceFormat.TPM: beside})
    json = with_tpm(AGGREGATOR_MEASUREMENT, beside).to_json()
    with pytest.raises(WireError, match="not named as both") as caught:
        AppraisalPolicy.from_json(json | alone.to_json())
    assert caught.value.reason is Reason.MALFORMED
