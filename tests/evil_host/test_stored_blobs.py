"""A host that alters, swaps, cuts or rolls back what it stores: it costs the one whose blob it was, and nobody else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from softtee.chip import Chip, SoftwareRoot
from tests.evil_host.hosts import (
    VICTIM,
    Host,
    another_plan,
    counted,
    everybody_but,
    finished,
    flip,
    joined,
    open_release,
)
from tests.world import INITIAL, LAYOUT, NOW, MemoryStore, SimpleSite, World
from trusted.blob import BlobHeader, ContentKey, open_blob, seal
from trusted.channel.transcript import AGGREGATOR, WORKER
from trusted.errors import ProtocolError, Reason
from trusted.release import Release, release_name, sign_release, verify_release
from trusted.wire import pack, sha256, unpack

RELEASE = "cloister/signed-release/v1"


def contribute_all(host: Host, connections: tuple[int, ...] = (1, 2, 3, 4)) -> None:
    for connection in connections:
        host.contribute(connection, host.sites[connection].tasks[-1])


def finish_automatically(host: Host, connections: tuple[int, ...]) -> None:
    for connection in connections:
        host.sites[connection].automatic = True
    contribute_all(host, connections)


def model_of(host: Host) -> bytes:
    """The sealed model of the open round."""
    return host.store.blobs[host.sites[1].tasks[-1].model_blob]


# --- down: the model --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip, Reason.BLOB_OPEN),
        (lambda sealed: sealed[:-1], Reason.BLOB_OPEN),
        (lambda sealed: sealed[:100], Reason.BLOB_TRUNCATED),
        (lambda sealed: b"", Reason.BLOB_TRUNCATED),
        (lambda sealed: sealed + b"\0", Reason.BLOB_OPEN),
    ],
    ids=["bit flipped", "a byte short", "header only", "gone", "a byte long"],
)
def test_a_damaged_model_costs_its_receiver_only(
    world: World, damage: Callable[[bytes], bytes], reason: Reason
) -> None:
    host = Host(world)
    host.serve = lambda site, sealed: damage(sealed) if site.member == "site-4" else sealed
    verified = finished(joined(host))
    assert host.failures == {VICTIM: [reason, reason]}
    assert counted(verified) == [everybody_but(host, VICTIM)] * 2


def test_the_model_of_an_earlier_round_is_refused_by_its_receiver(world: World) -> None:
    host = joined(Host(world), automatic=False)
    old = model_of(host)
    contribute_all(host)
    host.serve = lambda site, sealed: old if site.member == "site-4" else sealed
    contribute_all(host)
    assert host.failures == {VICTIM: [Reason.BLOB_ROUND]}
    assert counted(finished(host)) == [set(world.members), everybody_but(host, VICTIM)]


def test_the_model_of_another_plan_is_refused_by_its_receiver(world: World) -> None:
    foreign = model_of(joined(Host(another_plan(world)), automatic=False))
    host = Host(world)
    host.serve = lambda site, sealed: foreign if site.member == "site-4" else sealed
    verified = finished(joined(host))
    assert host.failures == {VICTIM: [Reason.BLOB_PLAN] * 2}
    assert counted(verified) == [everybody_but(host, VICTIM)] * 2


def test_an_update_in_place_of_the_model_is_refused_by_its_receiver(world: World) -> None:
    host = joined(Host(world), automatic=False)
    contribute_all(host, (1, 2, 3))
    update = host.store.blobs[host.sites[1].tasks[-1].upload]
    host.serve = lambda site, sealed: update
    contribute_all(host, (VICTIM,))
    assert host.failures == {VICTIM: [Reason.BLOB_KIND]}


def test_a_model_sealed_by_somebody_else_under_the_right_header_is_refused(world: World) -> None:
    """The host knows every public field of a header. It has neither the content key nor the attested signing key."""

    def forge(site: SimpleSite, sealed: bytes) -> bytes:
        header, key = site.tasks[-1].model_header, ContentKey.generate()
        signing_key = world.identity("aggregator").signing_key
        return b"".join(seal(header, [INITIAL.tobytes()], key=key, signing_key=signing_key))

    host = Host(world)
    host.serve = lambda site, sealed: forge(site, sealed) if site.member == "site-4" else sealed
    finished(joined(host))
    assert host.failures == {VICTIM: [Reason.BLOB_SIGNATURE] * 2}


# --- up: updates ------------------------------------------------------------------------------------------------------


def refused_update(host: Host, replace_with: Callable[[bytes], bytes]) -> Reason | None:
    """What the victim's receipt says when the host stores something else than its update; the others finish."""
    host.keep = lambda connection, sealed: replace_with(sealed) if connection == VICTIM else sealed
    contribute_all(host, (VICTIM,))
    host.keep = lambda connection, sealed: sealed
    finish_automatically(host, (1, 2, 3))
    assert counted(finished(host))[0] >= everybody_but(host, VICTIM)
    return host.sites[VICTIM].receipts[0]


def test_an_update_of_an_earlier_round_in_place_of_this_one_is_refused(world: World) -> None:
    host, kept = joined(Host(world), automatic=False), dict[int, bytes]()
    host.keep = lambda connection, sealed: kept.setdefault(connection, sealed) if connection == VICTIM else sealed
    contribute_all(host)
    contribute_all(host, (VICTIM,))
    assert host.sites[VICTIM].receipts == [None, Reason.BLOB_ROUND]
    finish_automatically(host, (1, 2, 3))
    assert counted(finished(host))[1] == everybody_but(host, VICTIM)


def test_an_update_for_another_plan_is_refused(world: World) -> None:
    """Same member, same round, same layout: the host feeds one run with what was meant for the other."""
    other = joined(Host(another_plan(world)), automatic=False)
    contribute_all(other, (VICTIM,))
    foreign = other.store.blobs[other.sites[VICTIM].tasks[-1].upload]
    host = joined(Host(world), automatic=False)
    assert refused_update(host, lambda sealed: foreign) is Reason.BLOB_PLAN


def test_the_model_in_place_of_an_update_is_refused(world: World) -> None:
    host = joined(Host(world), automatic=False)
    model = model_of(host)
    padded = model + bytes(16)
    assert refused_update(host, lambda sealed: padded[: len(sealed)]) is Reason.BLOB_KIND


def test_two_halves_of_two_updates_are_no_update(world: World) -> None:
    """Every chunk is authentic for something; the whole is authentic for nothing."""
    earlier, host = joined(Host(world), automatic=False), joined(Host(world), automatic=False)
    contribute_all(earlier, (VICTIM,))
    other = earlier.store.blobs[earlier.sites[VICTIM].tasks[-1].upload]
    half = len(other) // 2
    assert refused_update(host, lambda sealed: sealed[:half] + other[half:]) is Reason.BLOB_OPEN


def test_a_flipped_bit_in_the_signature_of_an_update_is_refused(world: World) -> None:
    host = joined(Host(world), automatic=False)
    header = len(host.sites[VICTIM].tasks[-1].upload_header.encode())
    assert refused_update(host, lambda sealed: flip(sealed, 4 + header + 4)) is Reason.BLOB_SIGNATURE


@pytest.mark.parametrize("size", [0, 1 << 31], ids=["zero", "two gigabytes"])
def test_an_update_whose_header_has_no_believable_size_is_refused(world: World, size: int) -> None:
    host = joined(Host(world), automatic=False)
    assert refused_update(host, lambda sealed: size.to_bytes(4, "big") + sealed[4:]) is Reason.BLOB_HEADER


class Chatty(MemoryStore):
    """A host that answers a read with more than was asked for, once it is ``chatty``."""

    chatty = False

    def read(self, blob: bytes, offset: int, size_bytes: int) -> bytes:
        return super().read(blob, offset, size_bytes) + (b"more" if self.chatty else b"")


def test_an_answer_longer_than_the_question_is_refused(world: World) -> None:
    store = Chatty()
    host = joined(Host(world, store), automatic=False)
    store.chatty = True
    contribute_all(host, (VICTIM,))
    assert host.sites[VICTIM].receipts == [Reason.BLOB_TRUNCATED]


# --- between verifying and folding ------------------------------------------------------------------------------------


def rolled_back(world: World, swap: Callable[[bytes], bytes], *, connections: tuple[int, ...]) -> Host:
    """Three updates count; before the last one arrives, the host puts something else in the place of some."""
    host = joined(Host(world), automatic=False)
    contribute_all(host, (1, 2, 3))
    for connection in connections:
        name = host.sites[connection].tasks[-1].upload
        host.store.blobs[name] = swap(host.store.blobs[name])
    contribute_all(host, (4,))
    return host


def test_an_earlier_upload_of_the_same_round_does_not_open_after_a_later_one_counted(world: World) -> None:
    """A worker that came back sealed anew; the host keeps the first blob and rolls its store back to it."""
    host = joined(Host(world), automatic=False)
    task = host.sites[1].tasks[-1]
    key = ContentKey.generate()
    zeros = [np.zeros(LAYOUT.elements, "<f4").tobytes()]
    first = b"".join(seal(task.upload_header, zeros, key=key, signing_key=host.sites[1].identity.signing_key))
    contribute_all(host, (1, 2, 3))
    host.store.blobs[task.upload] = first
    contribute_all(host, (4,))
    lost = [fields for fields in host.outcomes("contribution") if fields["outcome"] == "lost"]
    assert lost == [{"round": 1, "member": "site-1", "outcome": "lost", "reason": Reason.BLOB_OPEN.code}]
    assert len(host.outcomes("round-committed")) == 1


def test_a_round_whose_blobs_are_rolled_back_under_the_minimum_commits_nothing(world: World) -> None:
    host = rolled_back(world, flip, connections=(1, 2, 3))
    assert len(host.outcomes("round-abandoned")) == 1
    assert host.outcomes("round-committed") == []
    tasks = host.sites[4].tasks
    assert [task.round for task in tasks] == [1, 2]
    host.train(host.sites[4], tasks[-1])
    np.testing.assert_array_equal(host.sites[4].models[-1], INITIAL)


def test_a_blob_that_vanished_after_it_counted_is_excluded(world: World) -> None:
    host = rolled_back(world, lambda sealed: b"", connections=(1,))
    assert host.outcomes("contribution")[-1]["reason"] == Reason.BLOB_TRUNCATED.code
    assert len(host.outcomes("round-committed")) == 1


@pytest.mark.parametrize("alike", [True, False], ids=["under one prefix", "under another prefix"])
def test_a_two_faced_update_never_reaches_the_model(world: World, monkeypatch: pytest.MonkeyPatch, alike: bool) -> None:
    """A dishonest member and its host: finite when it is checked, infinite when it is folded, both authentic.

    Its update is named by its prefix. Where the faces share it (the member chose what is to be random), the round is
    abandoned; where they do not, the second face is none of the round's.
    """
    if alike:
        monkeypatch.setattr("trusted.floe.token_bytes", bytes)
    host = joined(Host(world), automatic=False)
    site, task, faces = host.sites[1], host.sites[1].tasks[-1], []
    key = ContentKey.generate()
    for value in (0.0, np.inf):
        data = [np.full(LAYOUT.elements, value, "<f4").tobytes()]
        faces.append(b"".join(seal(task.upload_header, data, key=key, signing_key=site.identity.signing_key)))
    host.store.blobs[task.upload] = faces[0]
    host.say(
        1,
        {
            "type": "update",
            "round": 1,
            "blob": task.upload.hex(),
            "key": key.secret.hex(),
            "prefix_sha256": sha256(faces[0][: task.upload_header.prefix_bytes]).hex(),
            "weight": 1,
            "metrics": {},
        },
    )
    monkeypatch.undo()
    assert site.receipts == [None]
    contribute_all(host, (2, 3))
    host.store.blobs[task.upload] = faces[1]
    contribute_all(host, (4,))
    if not alike:
        lost = [fields for fields in host.outcomes("contribution") if fields["outcome"] == "lost"]
        assert lost == [{"round": 1, "member": "site-1", "outcome": "lost", "reason": Reason.BLOB_HEADER.code}]
    assert len(host.outcomes("round-committed")) == (0 if alike else 1)
    assert [site.tasks[-1].round for site in host.sites.values()] == [2] * 4
    finish_automatically(host, (1, 2, 3, 4))
    assert np.isfinite(open_release(host, finished(host))).all()


# --- the initial model ------------------------------------------------------------------------------------------------


class SpoilsInitial(Host):
    """A host that alters the first initial model that is uploaded."""

    def say(self, connection: int, message: dict[str, Any]) -> None:
        if connection == 1 and message["type"] == "initial":
            name = bytes.fromhex(message["blob"])
            self.store.blobs[name] = flip(self.store.blobs[name])
        super().say(connection, message)


def test_a_damaged_initial_model_costs_its_sender_and_another_member_brings_it(world: World) -> None:
    host = SpoilsInitial(world)
    host.start()
    for index, member in enumerate(world.members):
        host.join(SimpleSite(world, member, has_initial=index < 2))
    assert host.closed == {1: Reason.BLOB_OPEN}
    assert counted(finished(host)) == [{"site-2", "site-3", "site-4"}] * 2


# --- the release ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def released(world: World) -> Host:
    host = joined(Host(world))
    finished(host)
    return host


def stored_release(host: Host) -> bytes:
    return host.store.blobs[release_name(host.world.plan.digest)]


def refused_release(world: World, stored: bytes) -> Reason:
    with pytest.raises(ProtocolError) as caught:
        verify_release(stored, world.federation, NOW)
    return caught.value.reason


def resigned(world: World, host: Host, role: str, **identity: object) -> bytes:
    """The very same document, signed and attested by a machine of the host's choice."""
    document = unpack(stored_release(host), RELEASE, 3, max_bytes=1 << 22)[0]
    signer = world.identity(role, **identity)
    claimed = Release.decode(document)
    changed = {name: getattr(claimed, name) for name in Release.__slots__}
    return sign_release(Release(**changed | {"verify_key": signer.verify_key, "boot": signer.boot}), signer)


def test_the_release_of_another_plan_is_refused(world: World, released: Host) -> None:
    other = joined(Host(another_plan(world)))
    finished(other)
    assert refused_release(world, stored_release(other)) is Reason.WRONG_PLAN


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_truncated_release_is_refused(world: World, released: Host, cut: int) -> None:
    assert refused_release(world, stored_release(released)[:-cut]) is Reason.MALFORMED


def test_a_byte_after_a_release_is_refused(world: World, released: Host) -> None:
    assert refused_release(world, stored_release(released) + b"\0") is Reason.MALFORMED


def test_a_release_signed_by_the_host_beside_genuine_evidence_is_refused(world: World, released: Host) -> None:
    document, signature, evidence = unpack(stored_release(released), RELEASE, 3, max_bytes=1 << 22)
    claimed = Release.decode(document)
    own = world.identity("aggregator")
    changed = {name: getattr(claimed, name) for name in Release.__slots__} | {"verify_key": own.verify_key}
    forged = Release(**changed).encode()
    own_signature = own.signing_key.sign(pack("cloister/release/v1", forged))
    assert refused_release(world, pack(RELEASE, forged, own_signature, evidence)) is Reason.REPORT_DATA
    assert refused_release(world, pack(RELEASE, forged, signature, evidence)) is Reason.DOCUMENT_SIGNATURE


@pytest.mark.parametrize(
    ("role", "identity", "reason"),
    [
        (AGGREGATOR, {"measurement": b"\x11" * 48}, Reason.MEASUREMENT),
        (WORKER, {}, Reason.HOST_DATA),
    ],
    ids=["other code", "a worker's TEE"],
)
def test_a_release_of_any_other_machine_is_refused(
    world: World, released: Host, role: str, identity: dict[str, Any], reason: Reason
) -> None:
    assert refused_release(world, resigned(world, released, role, **identity)) is reason


def test_a_release_of_an_aggregator_of_another_plan_is_refused(world: World, released: Host) -> None:
    stored = resigned(world, released, AGGREGATOR, plan=another_plan(world).plan)
    assert refused_release(world, stored) is Reason.HOST_DATA


def opens_release(host: Host, sealed: bytes, header: BlobHeader | None = None) -> Reason:
    """Why a recipient refuses ``sealed`` in the place of the released model."""
    verified = verify_release(stored_release(host), host.world.federation, NOW)
    release, expected = verified.release, header or verified.release.header(host.world.federation)
    key = verified.open_key("site-1", host.world.sealing["site-1"])
    with pytest.raises(ProtocolError) as caught:
        list(open_blob([sealed], expected=expected, key=key, verify_key=release.verify_key))
    return caught.value.reason


def test_the_released_model_cannot_be_altered_cut_or_exchanged(world: World, released: Host) -> None:
    verified = verify_release(stored_release(released), world.federation, NOW)
    sealed = released.store.blobs[verified.release.blob]
    assert opens_release(released, flip(sealed)) is Reason.BLOB_OPEN
    assert opens_release(released, sealed[:-1]) is Reason.BLOB_OPEN
    assert opens_release(released, sealed[:50]) is Reason.BLOB_TRUNCATED
    collecting = joined(Host(world), automatic=False)
    assert opens_release(released, model_of(collecting)) is Reason.BLOB_KIND
    again = joined(Host(world))
    other = finished(again).release
    assert opens_release(released, again.store.blobs[other.blob]) is Reason.BLOB_SIGNATURE


def test_a_key_wrapped_for_one_recipient_does_not_open_as_anothers(software_root: SoftwareRoot, chip: Chip) -> None:
    world = World(software_root, chip, plan_changes={"recipients": ("site-1", "site-2")})
    host = joined(Host(world))
    verified = finished(host)
    with pytest.raises(ProtocolError) as caught:
        verified.open_key("site-2", world.sealing["site-1"])
    assert caught.value.reason is Reason.OPEN_FAILED
    assert len(open_release(host, verified, "site-2")) == LAYOUT.elements
