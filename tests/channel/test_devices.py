"""A TEE and its GPUs under one challenge, through real handshakes, and every neighbour that must fail (§3.2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attestation.forge_gpu import Gpu, GpuMaker
from tests.world import AGGREGATOR_MEASUREMENT, NOW, WORKER_MEASUREMENT, ChipProvider, World, policy
from trusted.attestation.composite import MAX_BUNDLE_BYTES, EvidenceBundle, OpenTranscript
from trusted.attestation.device_policy import MAX_DEVICES, DeviceRule
from trusted.attestation.evidence import Evidence, EvidenceFormat
from trusted.attestation.policies.nvidia import strict_nvidia_policy
from trusted.attestation.policies.rules import Permission, ReferenceValue, Skip
from trusted.attestation.policy import AppraisalPolicy
from trusted.attestation.roots import Assurance
from trusted.channel.aggregator import AggregatorChannel
from trusted.channel.session import Identity
from trusted.channel.worker import WorkerChannel
from trusted.documents import charter as charters
from trusted.errors import AttestationError, ProtocolError, Reason, TeeError, WireError
from trusted.evidence.devices import WithDevices
from trusted.release import sign_release, verify_release
from trusted.wire import pack

MAKER = GpuMaker()
Devices = Callable[[bytes], tuple[Evidence, ...]]


@dataclass
class Cards:
    """GPUs in a machine: the challenges that they were given, and what they answered."""

    gpus: tuple[Gpu, ...]
    seen: list[bytes] = field(default_factory=list)
    given: list[tuple[Evidence, ...]] = field(default_factory=list)

    def __call__(self, challenge: bytes) -> tuple[Evidence, ...]:
        self.seen.append(challenge)
        self.given.append(tuple(gpu.attest(challenge) for gpu in self.gpus))
        return self.given[-1]


def cards(count: int) -> tuple[Gpu, ...]:
    return tuple(MAKER.make().fully_vouched(NOW) for _ in range(count))


@pytest.fixture(scope="module")
def two() -> tuple[Gpu, ...]:
    return cards(2)


def with_gpus(measurement: bytes, low: int, high: int, **changes: Any) -> AppraisalPolicy:
    gpus = replace(strict_nvidia_policy(assurance=Assurance.NONE), **changes)
    return AppraisalPolicy(policy(measurement).platforms, {EvidenceFormat.NVIDIA_GPU: DeviceRule(low, high, gpus)})


def make_world(root: Any, chip: Any, *, worker: AppraisalPolicy | None = None, aggregator: Any = None) -> World:
    changes: dict[str, Any] = {"roots": (root.trust_root, *MAKER.roots)}
    changes |= {"worker": worker} if worker else {}
    changes |= {"aggregator": aggregator} if aggregator else {}
    return World(root, chip, charter_changes=changes)


@pytest.fixture(scope="module")
def gpu_world(software_root: Any, chip: Any) -> World:
    """Workers hold exactly two GPUs; the aggregator holds none."""
    return make_world(software_root, chip, worker=with_gpus(WORKER_MEASUREMENT, 2, 2))


def identity(world: World, role: str, devices: Devices) -> Identity:
    return Identity.generate(replace(world.provider(role), gpus=devices))


def worker_of(world: World, devices: Devices, member: str = "site-1") -> WorkerChannel:
    return WorkerChannel(world.federation, identity(world, "worker", devices), world.membership(member))


def aggregator_of(world: World, devices: Devices = lambda _: ()) -> AggregatorChannel:
    return AggregatorChannel(world.federation, identity(world, "aggregator", devices), NOW)


def joined(world: World, worker: WorkerChannel, aggregator: AggregatorChannel) -> None:
    (offer,) = aggregator.receive(worker.begin(), NOW).replies
    (join,) = worker.receive(offer, NOW).replies
    (welcome,) = aggregator.receive(join, NOW).replies
    worker.receive(welcome, NOW)
    aggregator.receive(worker.session.send({"type": "ready"}), NOW)


def refused_join(world: World, devices: Devices) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        joined(world, worker_of(world, devices), aggregator_of(world))
    return caught.value.reason


def test_a_worker_with_its_gpus_is_admitted(gpu_world: World, two: tuple[Gpu, ...]) -> None:
    worker, aggregator = worker_of(gpu_world, Cards(two)), aggregator_of(gpu_world)
    joined(gpu_world, worker, aggregator)
    result = aggregator.peer.result
    assert [device.product for device in result.devices] == ["Hopper", "Hopper"]
    assert len({device.hardware_id for device in result.devices}) == 2
    assert result.expires <= min(device.expires for device in result.devices)
    assert result.to_json()["devices"] == [device.to_json() for device in result.devices]
    assert worker.aggregator is not None
    assert worker.aggregator.devices == ()


def test_both_roles_may_hold_gpus(software_root: Any, chip: Any, two: tuple[Gpu, ...]) -> None:
    rule = with_gpus(AGGREGATOR_MEASUREMENT, 1, 4)
    world = make_world(software_root, chip, worker=with_gpus(WORKER_MEASUREMENT, 0, 1), aggregator=rule)
    worker, aggregator = worker_of(world, Cards(())), aggregator_of(world, Cards(two))
    joined(world, worker, aggregator)
    assert worker.aggregator is not None
    assert len(worker.aggregator.devices) == 2
    with pytest.raises(ProtocolError) as caught:
        joined(world, worker_of(world, Cards(())), aggregator_of(world, Cards(())))
    assert caught.value.reason is Reason.DEVICE_COUNT


def test_a_missing_gpu_is_refused(gpu_world: World, two: tuple[Gpu, ...]) -> None:
    assert refused_join(gpu_world, Cards(two[:1])) is Reason.DEVICE_COUNT
    assert refused_join(gpu_world, Cards(())) is Reason.DEVICE_COUNT


def test_an_extra_gpu_is_refused(gpu_world: World, two: tuple[Gpu, ...]) -> None:
    assert refused_join(gpu_world, Cards((*two, *cards(1)))) is Reason.DEVICE_COUNT


def test_a_gpu_that_nobody_asked_for_is_refused(software_root: Any, chip: Any, two: tuple[Gpu, ...]) -> None:
    world = make_world(software_root, chip)
    assert refused_join(world, Cards(two)) is Reason.DEVICE_COUNT
    with pytest.raises(ProtocolError) as caught:
        joined(world, worker_of(world, Cards(())), aggregator_of(world, Cards(two)))
    assert caught.value.reason is Reason.DEVICE_COUNT


def test_one_gpu_does_not_count_as_two(gpu_world: World, two: tuple[Gpu, ...]) -> None:
    """Neither the same report twice, nor two reports of one device, nor one under two firmware keys."""
    one = two[0]
    assert refused_join(gpu_world, lambda challenge: (one.attest(challenge),) * 2) is Reason.DEVICE_DUPLICATE
    assert refused_join(gpu_world, Cards((one, one))) is Reason.DEVICE_DUPLICATE
    from tests.attestation.forge_gpu import FWID, tcb_info

    assert refused_join(gpu_world, Cards((one, one.with_leaf(tcb_info(FWID))))) is Reason.DEVICE_DUPLICATE


def test_a_gpu_report_over_another_nonce_is_refused(gpu_world: World, two: tuple[Gpu, ...]) -> None:
    assert refused_join(gpu_world, lambda _: tuple(gpu.attest(bytes(64)) for gpu in two)) is Reason.REPORT_DATA


def test_gpu_reports_of_another_handshake_are_refused(gpu_world: World, two: tuple[Gpu, ...]) -> None:
    earlier = Cards(two)
    joined(gpu_world, worker_of(gpu_world, earlier), aggregator_of(gpu_world))
    assert refused_join(gpu_world, lambda _: earlier.given[-1]) is Reason.REPORT_DATA


def test_the_challenge_depends_on_the_provers_keys_and_not_on_the_verifiers_nonce_alone(
    gpu_world: World, two: tuple[Gpu, ...]
) -> None:
    """Two workers answer one and the same offer: their GPUs are asked different things."""
    aggregator = aggregator_of(gpu_world)
    first, second = Cards(two), Cards(two)
    worker = worker_of(gpu_world, first)
    hello = worker.begin()
    (offer,) = aggregator.receive(hello, NOW).replies
    worker.receive(offer, NOW)
    twin = worker_of(gpu_world, second)
    twin._nonce, twin._frames, twin.state = worker._nonce, [hello], twin.state
    twin.begin()
    twin._frames = [hello]
    twin.receive(offer, NOW)
    assert first.seen != second.seen


def test_gpu_evidence_swapped_between_two_workers_is_refused(gpu_world: World) -> None:
    """Both handshakes run at once, and each worker's host shows the other's GPUs."""
    mine, others = Cards(cards(2)), Cards(cards(2))
    honest, aggregator = worker_of(gpu_world, others, "site-2"), aggregator_of(gpu_world)
    (offer,) = aggregator.receive(honest.begin(), NOW).replies
    honest.receive(offer, NOW)

    def swapped(challenge: bytes) -> tuple[Evidence, ...]:
        mine(challenge)
        return others.given[-1]

    assert refused_join(gpu_world, swapped) is Reason.REPORT_DATA


def bundles(two: tuple[Gpu, ...], provider: ChipProvider, transcript: OpenTranscript) -> EvidenceBundle:
    return EvidenceBundle.collect(replace(provider, gpus=Cards(two)), transcript)


TRANSCRIPT = OpenTranscript((b"worker", b"a"), (b"b",))


def appraised(world: World, bundle: EvidenceBundle, transcript: OpenTranscript = TRANSCRIPT) -> Reason | None:
    try:
        world.federation.appraise("worker", bundle, transcript, NOW)
    except AttestationError as error:
        return error.reason
    return None


def test_devices_cannot_be_changed_under_the_tees_report(gpu_world: World, two: tuple[Gpu, ...]) -> None:
    """The digests stand in the TEE's transcript: whoever holds the frames cannot put other devices in."""
    provider = gpu_world.provider("worker")
    bundle = bundles(two, provider, TRANSCRIPT)
    assert appraised(gpu_world, bundle) is None
    others = tuple(gpu.attest(TRANSCRIPT.device_challenge) for gpu in cards(2))
    for devices in (others, (bundle.devices[0], others[0]), bundle.devices[::-1]):
        assert appraised(gpu_world, replace(bundle, devices=devices)) is Reason.REPORT_DATA
    assert appraised(gpu_world, bundle, replace(TRANSCRIPT, after=(b"c",))) is Reason.REPORT_DATA


@pytest.mark.parametrize(
    ("gpu_changes", "policy_changes", "reason"),
    [
        ({"feature_flag": None}, {}, Reason.PLATFORM_INFO),
        ({"feature_flag": 2}, {}, Reason.PLATFORM_INFO),
        ({"parts": ()}, {}, Reason.MEASUREMENT),
        ({"parts": ()}, {"rims": Skip("x"), "ocsp": Skip("x"), "measurements": "pinned"}, Reason.DEBUG),
        ({"driver": "535.86.09", "parts": ()}, {}, Reason.MEASUREMENT),
    ],
    ids=["mode not stated", "other mode", "no reference values", "developer mode not ruled out", "old driver"],
)
def test_a_gpu_that_is_not_confidential_is_refused(
    software_root: Any,
    chip: Any,
    two: tuple[Gpu, ...],
    gpu_changes: dict[str, Any],
    policy_changes: dict[str, Any],
    reason: Reason,
) -> None:
    bad = replace(two[0], **gpu_changes)
    if policy_changes.get("measurements") == "pinned":
        from hashlib import sha384

        digest = sha384(b"".join(bad.measurements)).digest()
        policy_changes = policy_changes | {"measurements": (ReferenceValue(digest),)}
    world = make_world(software_root, chip, worker=with_gpus(WORKER_MEASUREMENT, 2, 2, **policy_changes))
    assert refused_join(world, Cards((bad, two[1]))) is reason
    assert refused_join(world, Cards((two[1], bad))) is reason


def test_one_gpu_on_hold_ends_the_admission_of_its_machine(gpu_world: World, two: tuple[Gpu, ...]) -> None:
    from cryptography.x509 import ReasonFlags, ocsp

    from tests.attestation.forge_gpu import answer, answers
    from trusted.wire import length_prefixed

    device, provisioner = two[1].device, MAKER.provisioner
    hold = answer(
        device.certificate,
        provisioner,
        NOW,
        status=ocsp.OCSPCertStatus.REVOKED,
        reason=ReasonFlags.certificate_hold,
    )
    held = two[1].with_parts(ocsp=length_prefixed(hold, *answers(two[1], NOW)[1:]))
    assert refused_join(gpu_world, Cards((two[0], held))) is Reason.REVOKED


def test_reattestation_asks_the_gpus_again(gpu_world: World, two: tuple[Gpu, ...]) -> None:
    machine = Cards(two)
    worker, aggregator = worker_of(gpu_world, machine), aggregator_of(gpu_world)
    joined(gpu_world, worker, aggregator)
    challenge = aggregator.session.challenge()
    assert challenge is not None
    (answer,) = worker.receive(challenge, NOW).replies
    aggregator.receive(answer, NOW)
    assert len(machine.seen) == 2
    assert len(set(machine.seen)) == 2


def test_a_gpu_that_is_gone_at_reattestation_ends_the_session(gpu_world: World, two: tuple[Gpu, ...]) -> None:
    machine = Cards(two)
    worker, aggregator = worker_of(gpu_world, machine), aggregator_of(gpu_world)
    joined(gpu_world, worker, aggregator)
    machine.gpus = two[:1]
    challenge = aggregator.session.challenge()
    assert challenge is not None
    (answer,) = worker.receive(challenge, NOW).replies
    with pytest.raises(ProtocolError) as caught:
        aggregator.receive(answer, NOW)
    assert caught.value.reason is Reason.DEVICE_COUNT


def test_a_release_carries_the_aggregators_gpus(software_root: Any, chip: Any, two: tuple[Gpu, ...]) -> None:
    from trusted.release import Release

    world = make_world(software_root, chip, aggregator=with_gpus(AGGREGATOR_MEASUREMENT, 2, 2))
    signer = identity(world, "aggregator", Cards(two))
    release = Release(
        plan=world.plan.digest,
        charter=world.charter.digest,
        rounds=2,
        model_sha256=bytes(32),
        blob=bytes(16),
        verify_key=signer.verify_key,
        boot=signer.boot,
        contributions=(),
        wrapped={},
    )
    verified = verify_release(sign_release(release, signer), world.federation, NOW)
    assert len(verified.aggregator.devices) == 2
    without = identity(world, "aggregator", Cards(()))
    bare = replace(release, verify_key=without.verify_key, boot=without.boot)
    with pytest.raises(AttestationError) as error:
        verify_release(sign_release(bare, without), world.federation, NOW)
    assert error.value.reason is Reason.DEVICE_COUNT


# the container


def test_a_bundle_reads_as_it_was_written_and_shares_what_is_the_same(gpu_world: World) -> None:
    gpus = cards(4)
    shared = dict(gpus[0].parts)
    gpus = tuple(gpu.with_parts(rim_driver=shared["rim-driver"], rim_vbios=shared["rim-vbios"]) for gpu in gpus)
    provider = gpu_world.provider("worker")
    sizes = [len(bundles(gpus[:count], provider, TRANSCRIPT).encode()) for count in (1, 2, 4)]
    manifests = len(shared["rim-driver"]) + len(shared["rim-vbios"])
    assert sizes[2] - sizes[1] < 2 * (sizes[1] - sizes[0]) + 64 < 2 * manifests
    bundle = bundles(gpus, provider, TRANSCRIPT)
    assert EvidenceBundle.decode(bundle.encode()) == bundle


def test_sixteen_gpus_with_their_endorsements_fit(gpu_world: World) -> None:
    one = cards(1)[0]
    big = one.with_parts(rim_driver=b"x" * 21_000, rim_vbios=b"y" * 21_000)
    devices = tuple(big.attest(bytes([number]) * 64) for number in range(MAX_DEVICES))
    cpu = gpu_world.provider("worker").evidence(bytes(64))
    assert len(EvidenceBundle(cpu, devices).encode()) < MAX_BUNDLE_BYTES // 2
    with pytest.raises(WireError) as error:
        EvidenceBundle(cpu, (*devices, devices[0]))
    assert error.value.reason is Reason.TOO_LARGE


def test_a_device_in_the_tees_place_is_refused_and_the_reverse(gpu_world: World, two: tuple[Gpu, ...]) -> None:
    cpu = gpu_world.provider("worker").evidence(bytes(64))
    gpu = two[0].attest(bytes(64))
    for tee, devices in ((gpu, ()), (gpu, (gpu,)), (cpu, (cpu,))):
        with pytest.raises(AttestationError) as error:
            EvidenceBundle(tee, devices)
        assert error.value.reason is Reason.EVIDENCE_FORMAT


def test_a_bundle_has_one_spelling(gpu_world: World, two: tuple[Gpu, ...]) -> None:
    from trusted.wire import length_prefixed, sha256, unpack

    bundle = bundles(two, gpu_world.provider("worker"), TRANSCRIPT)
    label = "cloister/evidence-bundle/v1"
    cpu, devices, shared = unpack(bundle.encode(), label, 3)
    contents = {sha256(content): content for device in bundle.devices for _, content in device.parts}
    reordered = length_prefixed(*sorted(contents.values()), *[])
    unused = shared + length_prefixed(b"nobody's")
    twice = shared + length_prefixed(next(iter(contents.values())))
    for other in (reordered, unused, twice, shared[:-1], b""):
        if other == shared:
            continue
        with pytest.raises(WireError):
            EvidenceBundle.decode(pack(label, cpu, devices, other))
    for record in (
        pack(label, cpu, devices),
        pack(label, cpu, devices, shared, b""),
        pack("x/v1", cpu, devices, shared),
    ):
        with pytest.raises(WireError):
            EvidenceBundle.decode(record)


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(cpu: bytes, devices: bytes, shared: bytes) -> None:
    with pytest.raises(ProtocolError):
        EvidenceBundle.decode(pack("cloister/evidence-bundle/v1", cpu, devices, shared))
    with pytest.raises(ProtocolError):
        EvidenceBundle.decode(cpu)


def test_a_machine_whose_gpu_gives_nothing_gives_no_evidence(gpu_world: World) -> None:
    class Broken:
        def devices(self, challenge: bytes) -> tuple[Evidence, ...]:
            raise TeeError(Reason.TEE_REPORT, "no")

    machine = WithDevices(gpu_world.provider("worker"), Broken())
    with pytest.raises(TeeError):
        EvidenceBundle.collect(machine, TRANSCRIPT)


def test_production_takes_no_gpu_that_may_be_looked_into(software_root: Any, chip: Any) -> None:
    """The rule of the charter that holds for TEEs holds for the devices below them."""
    worker = with_gpus(WORKER_MEASUREMENT, 1, 1, debug=Permission.ALLOW)
    with pytest.raises(ProtocolError) as caught:
        charters._check_production_policy(worker.devices[EvidenceFormat.NVIDIA_GPU].policy, "charter.worker")
    assert caught.value.reason is Reason.DOCUMENT_RULE
