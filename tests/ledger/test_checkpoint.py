"""Checkpoints: three lines, one log, one key, and a quorum that counts members."""

from __future__ import annotations

from base64 import b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.ledger.logs import KEYS, LOG_KEY, LOG_PUBLIC, MEMBERS, ORIGIN, PLAN, QUORUM, SECRETS, cosigned, states
from trusted.errors import LedgerError, Reason
from trusted.ledger.checkpoint import Checkpoint, Quorum, TreeHead, log_key, origin_of, verify_checkpoint
from trusted.ledger.merkle import EMPTY_ROOT
from trusted.ledger.notes import Note, sign
from trusted.wire import sha256

ROOT = b64encode(bytes(32)).decode()
KEY = log_key(ORIGIN, LOG_PUBLIC)
LOG = states(1, 2, 3)
STRANGER = Ed25519PrivateKey.from_private_bytes(sha256(b"a stranger"))


def reason_of(call) -> Reason:
    with pytest.raises(LedgerError) as caught:
        call()
    return caught.value.reason


def test_a_checkpoint_is_three_lines_and_is_read_back():
    checkpoint = Checkpoint(ORIGIN, LOG.head())
    assert checkpoint.text == f"cloister/{PLAN.hex()}\n3\n{b64encode(LOG.tree.root()).decode()}\n"
    assert Checkpoint.parse(checkpoint.text) == checkpoint
    verified = verify_checkpoint(checkpoint.sign(LOG_KEY).encode(), KEY)
    assert (verified.checkpoint, verified.head) == (checkpoint, LOG.head())


def test_the_empty_log_has_one_root():
    assert Checkpoint.parse(Checkpoint(ORIGIN, TreeHead(0, EMPTY_ROOT)).text).head.size == 0
    assert reason_of(lambda: Checkpoint.parse(f"{ORIGIN}\n0\n{ROOT}\n")) is Reason.MALFORMED


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n1\n{ROOT}",
        f"{ORIGIN}\n1\n{ROOT}\nextension\n",
        f"{ORIGIN}\n1\n{ROOT}\n\n",
        f"{ORIGIN}\n01\n{ROOT}\n",
        f"{ORIGIN}\n+1\n{ROOT}\n",
        f"{ORIGIN}\n-1\n{ROOT}\n",
        f"{ORIGIN}\n١\n{ROOT}\n",
        f"{ORIGIN}\n{(1 << 40) + 1}\n{ROOT}\n",
        f"{ORIGIN}\n{'9' * 5000}\n{ROOT}\n",
        f"{ORIGIN}\n1\n{ROOT[:-4]}\n",
        f"{ORIGIN}\n1\n{ROOT[:-2]}B=\n",
        f"{ORIGIN}\n1\nAAAA{ROOT}\n",
        f"{ORIGIN.upper()}\n1\n{ROOT}\n",
        f"{ORIGIN}0\n1\n{ROOT}\n",
        f"example.com/log\n1\n{ROOT}\n",
        f"{ORIGIN}\n1\n",
        "",
    ],
)
def test_what_is_no_checkpoint_is_refused(text):
    assert reason_of(lambda: Checkpoint.parse(text)) is Reason.MALFORMED


def test_a_checkpoint_of_another_log_or_key_is_refused():
    other = origin_of(sha256(b"another plan"))
    for note in (LOG.note(origin=other), LOG.note(key=STRANGER), cosigned(Note(LOG.note().text, ()), "site-1")):
        assert reason_of(lambda note=note: verify_checkpoint(note.encode(), KEY)) is Reason.LEDGER_SIGNATURE


def test_a_checkpoint_is_not_renamed_by_the_name_in_its_signature():
    other = Checkpoint(origin_of(sha256(b"another plan")), LOG.head()).text
    note = Note(other, (sign(other, ORIGIN, LOG_KEY),))
    assert reason_of(lambda: verify_checkpoint(note.encode(), KEY)) is Reason.LEDGER_SIGNATURE


def certified(note: Note, keys=KEYS, quorum: Quorum = QUORUM) -> frozenset[str]:
    return quorum.require_cosigned(verify_checkpoint(note.encode(), KEY), keys)


def test_a_quorum_of_members_certifies():
    assert certified(cosigned(LOG.note(), *MEMBERS[:3])) == frozenset(MEMBERS[:3])
    assert certified(cosigned(LOG.note(), *MEMBERS)) == frozenset(MEMBERS)


def test_fewer_than_a_quorum_certify_nothing():
    for members in ((), MEMBERS[:1], MEMBERS[:2]):
        assert reason_of(lambda members=members: certified(cosigned(LOG.note(), *members))) is Reason.LEDGER_QUORUM


def test_a_quorum_counts_members_and_not_keys_or_lines():
    second = Ed25519PrivateKey.from_private_bytes(sha256(b"a second key"))
    keys = KEYS | {"site-1": [*KEYS["site-1"], second.public_key().public_bytes_raw()]}
    twice = cosigned(LOG.note(), "site-1", "site-2")
    twice = cosigned(twice, "site-1", secrets={"site-1": second})
    later = Checkpoint.parse(twice.text).cosign("site-2", SECRETS["site-2"], time_s=1)
    assert reason_of(lambda: certified(twice.with_signatures(later), keys)) is Reason.LEDGER_QUORUM
    assert certified(cosigned(twice, "site-3"), keys) == frozenset(MEMBERS[:3])


def test_a_key_that_two_members_claim_is_refused():
    keys = KEYS | {"site-5": KEYS["site-1"]}
    assert reason_of(lambda: certified(cosigned(LOG.note(), *MEMBERS[:4]), keys)) is Reason.LEDGER_QUORUM


def test_who_is_no_witness_does_not_count():
    secrets = SECRETS | {"guest": STRANGER}
    keys = KEYS | {"guest": [STRANGER.public_key().public_bytes_raw()]}
    note = cosigned(LOG.note(), "site-1", "site-2", "guest", secrets=secrets)
    assert reason_of(lambda: certified(note, keys)) is Reason.LEDGER_QUORUM


def test_cosignatures_of_another_checkpoint_do_not_count():
    lines = cosigned(states(1, 2).note(), *MEMBERS[:3]).signatures[1:]
    assert reason_of(lambda: certified(LOG.note().with_signatures(*lines))) is Reason.LEDGER_SIGNATURE


@pytest.mark.parametrize(
    ("members", "needed"),
    [(MEMBERS[:4], 2), (MEMBERS, 2), (MEMBERS, 6), (MEMBERS, 0), (MEMBERS, -1), ((), 0), (("a", "a", "b"), 3)],
)
def test_a_quorum_that_two_forks_could_both_have_is_refused(members, needed):
    assert reason_of(lambda: Quorum(members, needed)) is Reason.LEDGER_QUORUM


@pytest.mark.parametrize(("members", "needed"), [(MEMBERS[:1], 1), (MEMBERS[:4], 3), (MEMBERS, 3), (MEMBERS, 5)])
def test_more_than_half_is_a_quorum(members, needed):
    assert Quorum(members, needed).needed == needed
