"""What a worker remembers as a witness: kept before it answers, never less than before, and no secret in a repr."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.ledger.logs import LOG_KEY, ORIGIN, PLAN, Log, epoch, state, states
from tests.world import NOW
from trusted.errors import LedgerError, ProtocolError, Reason, WireError
from trusted.ledger.checkpoint import EMPTY, Checkpoint, Diverged, TreeHead, witness_key
from trusted.ledger.leaves import Committed, encode
from trusted.ledger.notes import Note
from trusted.ledger.witness import Epoch, WitnessRecord
from trusted.wire import Fields, decode_json, encode_json, sha256
from worker.memory import Memory

WORKER_KEY = Ed25519PrivateKey.from_private_bytes(sha256(b"a worker"))
RECOVERY = sha256(b"a recovery key")
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(sha256(b"another log"))


@dataclass
class Keeper:
    """Keeps every version, and fails when told to."""

    kept: list[bytes] = field(default_factory=list)
    broken: bool = False

    def read(self, name: str) -> bytes | None:
        assert name == "witness"
        return self.kept[-1] if self.kept else None

    def write(self, name: str, content: bytes) -> None:
        if self.broken:
            raise OSError("no space left")
        self.kept.append(content)


def recalled(keeper: Keeper | None) -> Memory:
    return Memory.recall("site-1", PLAN, WORKER_KEY, keeper)


def asked(memory: Memory, at: Epoch) -> dict[str, Any]:
    with Fields({"number": at.number, "boot": at.boot.hex()}, "epoch") as fields:
        return memory.promise(fields)


def proposed(log: Log, base: int, **changes: Any) -> dict[str, Any]:
    """What an aggregator proposes to a witness whose base has ``base`` leaves."""
    key = changes.pop("key", LOG_KEY)
    proposal = log.proposal(epoch(1), base)
    message = {
        "note": log.note(key=key).encode().decode(),
        "leaf": proposal.last_leaf.hex(),
        "inclusion": [node.hex() for node in proposal.inclusion],
        "consistency": [node.hex() for node in proposal.consistency],
        "certified": None,
        "log_key": key.public_key().public_bytes_raw().hex(),
        "recovery_key": RECOVERY.hex(),
    }
    return message | changes


def cosigns(memory: Memory, message: dict[str, Any]) -> dict[str, Any]:
    with Fields(message, "witness") as fields:
        return memory.witness(fields, NOW)


def settled(head: TreeHead) -> dict[str, Any]:
    return {"size": head.size, "root": head.root.hex()}


def record_of(memory: Memory) -> WitnessRecord:
    told = asked(memory, memory._promised or epoch(1))["record"]
    return WitnessRecord.decode(bytes.fromhex(told))


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


def test_a_worker_that_remembers_nothing_says_so(keeper):
    memory = recalled(keeper)
    assert memory.greeting() is None
    assert asked(memory, epoch(1)) == {"type": "promised", "number": 1, "record": None, "recovery_key": None}


def test_a_promise_is_kept_before_it_is_told(keeper):
    memory = recalled(keeper)
    asked(memory, epoch(1))
    assert recalled(keeper).greeting() == epoch(1).to_json()
    keeper.broken = True
    with pytest.raises(OSError, match="space"):
        asked(memory, epoch(2))
    assert memory.greeting() == epoch(1).to_json()


def test_a_cosignature_is_kept_before_it_is_told(keeper):
    memory = recalled(keeper)
    asked(memory, epoch(1))
    keeper.broken = True
    with pytest.raises(OSError, match="space"):
        cosigns(memory, proposed(states(1), 0))
    assert asked(memory, epoch(1))["record"] is None
    keeper.broken = False
    cosigns(memory, proposed(states(1), 0))
    assert record_of(recalled(keeper)).pending.head == states(1).head()


def test_a_cosignature_is_of_what_was_proposed_by_this_member_with_the_time(keeper):
    memory, log = recalled(keeper), states(1, 2)
    asked(memory, epoch(1))
    said = cosigns(memory, proposed(log, 0))
    assert said["size"] == 2
    key = witness_key(ORIGIN, "site-1", WORKER_KEY.public_key().public_bytes_raw())
    key.verify(log.note().text, bytes.fromhex(said["signature"]))
    assert int.from_bytes(bytes.fromhex(said["signature"])[:8], "big") == int(NOW.timestamp())


def test_everything_outlives_a_restart(keeper):
    memory, log = recalled(keeper), states(1, 2)
    asked(memory, epoch(3))
    cosigns(memory, proposed(log, 0))
    again = recalled(keeper)
    assert asked(again, epoch(3)) == asked(memory, epoch(3))
    told = asked(again, epoch(4))
    assert told["recovery_key"] == RECOVERY.hex()
    assert WitnessRecord.decode(bytes.fromhex(told["record"])).pending.head == log.head()


def test_what_did_not_change_is_not_written_again(keeper):
    memory = recalled(keeper)
    for _ in range(3):
        asked(memory, epoch(1))
    for _ in range(3):
        cosigns(memory, proposed(states(1), 0))
    assert len(keeper.kept) == 2


def test_without_a_keeper_it_remembers_as_long_as_it_lives():
    memory = recalled(None)
    asked(memory, epoch(1))
    cosigns(memory, proposed(states(1), 0))
    assert record_of(memory).pending.head.size == 1
    assert recalled(None).greeting() is None


@pytest.mark.parametrize("at", [epoch(1), epoch(2, "b")], ids=["lower", "the same of another"])
def test_a_lower_epoch_and_another_aggregator_of_the_same_are_refused(keeper, at):
    memory = recalled(keeper)
    asked(memory, epoch(2))
    for one in (memory, recalled(keeper)):
        with pytest.raises(LedgerError) as caught:
            asked(one, at)
        assert caught.value.reason is Reason.LEDGER_EPOCH
        assert one.greeting() == epoch(2).to_json()


def test_a_proposal_before_any_promise_is_refused(keeper):
    with pytest.raises(LedgerError) as caught:
        cosigns(recalled(keeper), proposed(states(1), 0))
    assert caught.value.reason is Reason.LEDGER_EPOCH
    assert keeper.kept == []


LONGER, FORK = states(1, 2, 3), states(1).add(state(2, b"other"), state(3, b"other"))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (proposed(states(1), 1), Reason.LEDGER_SHRINKS),
        (proposed(FORK, 2), Reason.LEDGER_FORK),
        (proposed(LONGER, 1), Reason.LEDGER_FORK),
        (proposed(LONGER, 2, consistency=[]), Reason.LEDGER_FORK),
        (proposed(LONGER, 2, inclusion=[]), Reason.LEDGER_PROOF),
        (proposed(LONGER, 2, leaf=encode(Committed(1)).hex()), Reason.LEDGER_PROOF),
        (proposed(states(1, 2).add(encode(Committed(1))), 2), Reason.LEDGER_LEAF),
        (proposed(LONGER, 2, key=OTHER_KEY), Reason.LEDGER_SIGNATURE),
        (proposed(LONGER, 2, leaf="00" * 4097), Reason.TOO_LARGE),
        (proposed(LONGER, 2, note="x" * 4097), Reason.MALFORMED),
        (proposed(LONGER, 2, inclusion=["00" * 31]), Reason.MALFORMED),
        (proposed(LONGER, 2, consistency=["00" * 32] * 42), Reason.TOO_LARGE),
        (proposed(LONGER, 2, certified={"size": 0, "root": "00" * 32}), Reason.MALFORMED),
        (proposed(LONGER, 2, recovery_key="00" * 31), Reason.MALFORMED),
        (proposed(LONGER, 2, also=1), Reason.UNKNOWN_FIELD),
    ],
    ids=[
        "shorter", "a fork", "proof from elsewhere", "no consistency", "no inclusion", "another leaf", "no state",
        "another log", "leaf too large", "note too large", "a hash too short", "too many hashes",
        "certified nothing", "a key too short", "a field more",
    ],
)  # fmt: skip
def test_a_proposal_that_is_not_quite_right_is_refused_and_nothing_is_forgotten(keeper, message, reason):
    memory = recalled(keeper)
    asked(memory, epoch(1))
    cosigns(memory, proposed(states(1, 2), 0))
    cosigns(memory, proposed(states(1, 2), 0, certified=settled(states(1, 2).head())))
    before = list(keeper.kept)
    with pytest.raises(ProtocolError) as caught:
        cosigns(memory, message)
    assert caught.value.reason is reason
    if (
        reason is not Reason.UNKNOWN_FIELD
    ):  # the fields are read first: it had been cosigned before the surplus was seen
        assert keeper.kept == before


def test_a_fork_names_what_is_held_and_what_is_offered(keeper):
    memory = recalled(keeper)
    asked(memory, epoch(1))
    cosigns(memory, proposed(states(1, 2), 0))
    with pytest.raises(Diverged) as caught:
        cosigns(memory, proposed(FORK, 2))
    assert (caught.value.held, caught.value.offered) == (states(1, 2).head(), FORK.head())


def test_the_aggregators_word_certifies_what_this_witness_cosigned_and_nothing_else(keeper):
    memory = recalled(keeper)
    asked(memory, epoch(1))
    cosigns(memory, proposed(states(1), 0, certified=settled(LONGER.head())))
    assert record_of(memory).certified == EMPTY
    cosigns(memory, proposed(states(1, 2), 1, certified=settled(states(1).head())))
    assert record_of(memory).certified == states(1).head()


def test_in_a_later_epoch_what_was_not_certified_gives_way_and_what_was_does_not(keeper):
    memory = recalled(keeper)
    asked(memory, epoch(1))
    cosigns(memory, proposed(states(1), 0))
    cosigns(memory, proposed(states(1, 2), 1, certified=settled(states(1).head())))
    asked(memory, epoch(2, "b"))
    cosigns(memory, proposed(FORK, 1))
    assert record_of(memory).pending.head == FORK.head()
    asked(memory, epoch(3, "c"))
    with pytest.raises(LedgerError) as caught:
        cosigns(memory, proposed(Log().add(state(9), state(10)), 1))
    assert caught.value.reason is Reason.LEDGER_FORK


def test_another_log_is_followed_only_where_nothing_was_certified_and_in_a_later_epoch(keeper):
    other = proposed(states(7), 0, key=OTHER_KEY)
    memory = recalled(keeper)
    asked(memory, epoch(1))
    cosigns(memory, proposed(states(1), 0))
    with pytest.raises(LedgerError) as caught:
        cosigns(memory, other)  # in the epoch of the first
    assert caught.value.reason is Reason.LEDGER_SIGNATURE
    asked(memory, epoch(2, "b"))
    cosigns(memory, other | {"recovery_key": "ab" * 32})
    told = asked(recalled(keeper), epoch(2, "b"))
    assert told["recovery_key"] == "ab" * 32
    assert (
        WitnessRecord.decode(bytes.fromhex(told["record"])).log_public_key == OTHER_KEY.public_key().public_bytes_raw()
    )
    cosigns(memory, proposed(states(7), 0, key=OTHER_KEY, certified=settled(states(7).head())))
    asked(memory, epoch(3, "c"))
    with pytest.raises(LedgerError) as caught:
        cosigns(memory, proposed(states(7, 8), 1))
    assert caught.value.reason is Reason.LEDGER_SIGNATURE


@pytest.mark.parametrize(
    "kept",
    [
        b"",
        b"{}",
        encode_json({"promised": None, "also": 1}),
        encode_json({"promised": {"number": 0, "boot": "00" * 16}}),
        encode_json({"promised": None, "record": "00"}),
        encode_json({"promised": None, "recovery_key": "00" * 31}),
        b'{"promised": null}',
        b" " * 9000,
    ],
)
def test_what_this_worker_did_not_write_is_refused(keeper, kept):
    keeper.kept.append(kept)
    with pytest.raises(WireError):
        recalled(keeper)


def test_what_is_kept_is_a_small_document(keeper):
    memory = recalled(keeper)
    asked(memory, epoch(1 << 31))
    cosigns(memory, proposed(states(*range(1, 40)), 0))
    assert set(decode_json(keeper.kept[-1])) == {"promised", "record", "recovery_key"}
    assert len(keeper.kept[-1]) < 2048


def test_another_log_key_is_not_listened_to_once_something_was_certified(keeper):
    memory = recalled(keeper)
    asked(memory, epoch(1))
    cosigns(memory, proposed(states(1), 0))
    cosigns(memory, proposed(states(1), 0, certified=settled(states(1).head())))
    pinned = record_of(memory).log_public_key
    cosigns(memory, proposed(states(1, 2), 1, log_key="00" * 32))
    assert record_of(memory).log_public_key == pinned


def test_nothing_secret_stands_in_a_repr():
    memory = recalled(None)
    asked(memory, epoch(1))
    said = cosigns(memory, proposed(states(1), 0))
    for secret in (RECOVERY, WORKER_KEY.private_bytes_raw()):
        assert secret.hex() not in repr((memory, said))
        assert repr(secret)[2:20] not in repr(memory)
    assert Checkpoint.parse(Note.parse(proposed(states(1), 0)["note"].encode()).text).head.size == 1
