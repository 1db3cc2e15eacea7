"""The sealed state: it opens for its own plan and number alone, says all of a round, and shows nothing of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from coordinator.enclave.fold import Contribution
from coordinator.enclave.record import (
    MAX_SEALED_BYTES,
    Counted,
    Phase,
    RecoveryKey,
    RunRecord,
    SealedVector,
)
from trusted.blob import BlobKind, ContentKey
from trusted.errors import Reason, StateError, WireError
from trusted.exchange import Exchanged
from trusted.wire import decode_json, encode_json, pack, sha256

PLAN, OTHER_PLAN = sha256(b"a plan"), sha256(b"another plan")
KEY = RecoveryKey(sha256(b"a run"))
SECRET = sha256(b"a content key")


@pytest.fixture(scope="module")
def exchanged(world) -> Exchanged:
    return Exchanged.of(world.plan)


def vector(kind: BlobKind = BlobKind.MODEL, number: int = 3) -> SealedVector:
    return SealedVector(bytes(16), ContentKey(SECRET), kind, number, sha256(b"a signer"))


def counted(exchanged: Exchanged, member: str, number: int = 3) -> Counted:
    header = exchanged.header(BlobKind.UPDATE, number, member)
    given = Contribution(member, 7, b"\1" * 16, header, ContentKey(SECRET), sha256(b"worker"), sha256(b"prefix"))
    return Counted(given, {"auc": 0.25})


def records(exchanged: Exchanged) -> list[RunRecord]:
    seed = sha256(b"a seed")
    collecting = RunRecord(
        Phase.COLLECTING,
        3,
        1,
        seed,
        vector(),
        vector(BlobKind.STATE),
        (vector(BlobKind.STATE),),
        None,
        ("site-1", "site-2"),
    )
    closed = replace(
        collecting,
        phase=Phase.CLOSED,
        base=vector(BlobKind.BASE, 0),
        counted=(counted(exchanged, "site-1"), counted(exchanged, "site-2")),
        lost={"site-3": Reason.ROUND_DEADLINE},
    )
    return [collecting, closed]


def test_a_record_survives_being_written(exchanged):
    for record in records(exchanged):
        assert RunRecord.decode(record.encode(), exchanged) == record
        assert RunRecord.decode(record.encode(), exchanged).encode() == record.encode()


def test_a_record_without_one_of_its_fields_or_with_another_is_refused(exchanged):
    for record in records(exchanged):
        document = decode_json(record.encode())
        for name in document:
            with pytest.raises(WireError) as caught:
                RunRecord.decode(encode_json({key: document[key] for key in document if key != name}), exchanged)
            assert caught.value.reason is Reason.MISSING_FIELD
        with pytest.raises(WireError) as caught:
            RunRecord.decode(encode_json(document | {"also": 1}), exchanged)
        assert caught.value.reason is Reason.UNKNOWN_FIELD


@pytest.mark.parametrize(
    "change",
    [
        {"phase": "folded"},
        {"number": 0},
        {"number": 1 << 32},
        {"abandoned_in_a_row": -1},
        {"seed": "00" * 31},
        {"sent": {}},
        {"cohort": ["site-1"] * 1025},
        {"counted": [{}]},
        {"lost": []},
    ],
)
def test_a_record_out_of_its_bounds_is_refused(exchanged, change):
    document = decode_json(records(exchanged)[1].encode())
    with pytest.raises(WireError):
        RunRecord.decode(encode_json(document | change), exchanged)


def test_an_update_that_has_no_name_is_not_written_down(exchanged):
    nameless = counted(exchanged, "site-1")
    with pytest.raises(RuntimeError, match="prefix"):
        Counted(replace(nameless.contribution, prefix_sha256=None), {}).to_json()


def test_a_state_opens_for_its_own_run_plan_and_number_alone():
    sealed = KEY.seal(PLAN, 4, b"a state")
    assert KEY.open(PLAN, 4, sealed) == b"a state"
    for key, plan, sequence in (
        (KEY, PLAN, 3),
        (KEY, PLAN, 5),
        (KEY, OTHER_PLAN, 4),
        (RecoveryKey(sha256(b"another run")), PLAN, 4),
    ):
        with pytest.raises(StateError) as caught:
            key.open(plan, sequence, sealed)
        assert caught.value.reason is Reason.SEALED_STATE


def test_every_altered_byte_every_cut_and_a_byte_more_are_refused():
    sealed = KEY.seal(PLAN, 4, b"a state")
    altered = [sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :] for place in range(len(sealed))]
    cut = [sealed[:size] for size in range(len(sealed))]
    for data in (*altered, *cut, sealed + b"\0", pack("cloister/run-state/v1", bytes(11), sealed)):
        with pytest.raises(StateError) as caught:
            KEY.open(PLAN, 4, data)
        assert caught.value.reason is Reason.SEALED_STATE


def test_a_state_larger_than_any_is_refused_before_it_is_opened():
    with pytest.raises(StateError):
        KEY.open(PLAN, 4, KEY.seal(PLAN, 4, bytes(MAX_SEALED_BYTES)))


def test_the_same_state_is_never_sealed_alike():
    assert KEY.seal(PLAN, 4, b"a state") != KEY.seal(PLAN, 4, b"a state")


def test_log_key_and_state_keys_of_plans_are_all_different():
    def public(key: Ed25519PrivateKey) -> bytes:
        return key.public_key().public_bytes_raw()

    assert public(KEY.log_key(PLAN)) == public(RecoveryKey(KEY.secret).log_key(PLAN))
    assert public(KEY.log_key(PLAN)) != public(KEY.log_key(OTHER_PLAN))
    assert KEY.log_key(PLAN).private_bytes_raw() not in (KEY.secret, KEY._derive(b""))
    assert RecoveryKey.generate() != RecoveryKey.generate()


def test_nothing_secret_stands_in_a_repr(exchanged):
    shown = repr((KEY, *records(exchanged), counted(exchanged, "site-1"), vector()))
    for secret in (KEY.secret, SECRET, records(exchanged)[0].seed):
        assert secret.hex() not in shown
        assert repr(secret)[2:20] not in shown
