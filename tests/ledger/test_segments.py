"""The stored log: only what lies under the root that was asked for counts, whatever the host puts in its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ledger.logs import PLAN, Log, sealed_state, state, states
from trusted.errors import LedgerError, Reason, WireError
from trusted.ledger.checkpoint import EMPTY, Diverged, TreeHead
from trusted.ledger.merkle import MAX_SIZE
from trusted.ledger.notes import MAX_NOTE_BYTES
from trusted.ledger.segments import MAX_SEGMENT_BYTES, Segment, read_log, segment_name
from trusted.wire import length_prefixed, pack

LABEL = "cloister/ledger-segment/v1"
LOG = states(1, 2, 3, 4, 5, 6)
FORK = states(1, 2).add(state(3, b"other"), state(4, b"other"), state(5, b"other"), state(6, b"other"))
CUTS = (0, 1, 4, 6)


def stored(log: Log = LOG, certificates: tuple[bytes, ...] = (b"", b"one", b"two")) -> dict[bytes, bytes]:
    """``log`` as three segments."""
    host = {}
    for certificate, begin, end in zip(certificates, CUTS, CUTS[1:], strict=False):
        segment = Segment(log.head(begin), certificate, tuple(log.leaves[begin:end]))
        host[segment_name(PLAN, log.head(end))] = segment.encode()
    return host


def read(host: dict[bytes, bytes], head: TreeHead | None = None) -> tuple[bytes, ...]:
    return read_log(PLAN, head or LOG.head(), lambda name: host.get(name, b"")).leaves


def refused(host: dict[bytes, bytes], head: TreeHead | None = None) -> Reason:
    with pytest.raises(LedgerError) as caught:
        read(host, head)
    return caught.value.reason


def at(end: int) -> bytes:
    return segment_name(PLAN, LOG.head(end))


def test_a_stored_log_is_read_back_with_its_certificates():
    log = read_log(PLAN, LOG.head(), lambda name: stored().get(name, b""))
    assert log.leaves == tuple(LOG.leaves)
    assert log.certificates == (b"one", b"two")
    assert log.tree().root() == LOG.tree.root()


def test_an_earlier_checkpoint_finds_the_log_up_to_it_and_nothing_an_empty_one():
    assert read(stored(), LOG.head(4)) == tuple(LOG.leaves[:4])
    assert read({}, EMPTY) == ()


@given(leaves=st.lists(st.binary(min_size=1, max_size=40), max_size=5), certificate=st.binary(max_size=40))
def test_a_segment_survives_being_stored(leaves, certificate):
    segment = Segment(LOG.head(3), certificate, tuple(leaves))
    assert Segment.decode(segment.encode()) == segment


def test_names_differ_by_plan_size_and_root_and_are_those_of_the_protocol():
    names = {
        segment_name(plan, head)
        for plan in (PLAN, bytes(32))
        for head in (LOG.head(4), LOG.head(5), FORK.head(4), EMPTY)
    }
    assert len(names) == 8
    assert {len(name) for name in names} == {16}


@pytest.mark.parametrize("end", CUTS[1:])
def test_every_byte_of_every_segment_that_says_what_happened_counts(end):
    """All but a certificate, which is checked by whoever believes it: the log does not depend on it."""
    host = stored()
    whole = host[at(end)]
    certificate = whole.index({1: b"\0\0\0\0", 4: b"one", 6: b"two"}[end]) if end > 1 else -1
    for place in range(len(whole)):
        if certificate <= place < certificate + 3 and end > 1:
            continue
        host[at(end)] = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
        assert refused(host) in {Reason.STATE_ROLLBACK, Reason.STATE_MISSING}, place


@pytest.mark.parametrize("end", CUTS[1:])
def test_a_segment_cut_anywhere_or_longer_is_refused(end):
    host = stored()
    whole = host[at(end)]
    for size in (*range(1, len(whole)), len(whole) + 1):
        host[at(end)] = (whole + b"\0")[:size]
        assert refused(host) is Reason.STATE_ROLLBACK
    host[at(end)] = b""
    assert refused(host) is Reason.STATE_MISSING


@pytest.mark.parametrize("end", CUTS[1:])
def test_a_missing_segment_is_missed_by_name(end):
    host = stored()
    del host[at(end)]
    with pytest.raises(LedgerError, match=str(end)) as caught:
        read(host)
    assert caught.value.reason is Reason.STATE_MISSING


def test_segments_in_each_others_place_are_refused():
    host = stored()
    host[at(1)], host[at(4)] = host[at(4)], host[at(1)]
    assert refused(host) is Reason.STATE_ROLLBACK


def test_another_log_of_the_same_size_is_refused_and_both_are_named():
    """Under the name of the one that was witnessed: as a whole, and its last segment alone."""
    host, other = stored(), stored(FORK)
    last = other[segment_name(PLAN, FORK.head())]
    assert refused(other) is Reason.STATE_MISSING  # forks never share a name
    with pytest.raises(Diverged) as caught:
        read(host | other | {at(6): last})
    assert caught.value.reason is Reason.STATE_ROLLBACK
    assert (caught.value.held, caught.value.offered) == (LOG.head(), FORK.head())


def test_a_segment_that_leads_nowhere_or_in_a_circle_ends():
    """One without leaves would name itself for ever; one that says too much or too little does not add up."""
    host = stored()
    for before, leaves in (
        (LOG.head(), ()),
        (LOG.head(3), tuple(LOG.leaves[4:])),
        (LOG.head(5), tuple(LOG.leaves[4:])),
        (TreeHead(7, bytes(32)), tuple(LOG.leaves[4:])),
        (TreeHead(0, bytes(32)), tuple(LOG.leaves)),
    ):
        host[at(6)] = Segment(before, b"", leaves).encode()
        assert refused(host) in {Reason.STATE_ROLLBACK, Reason.STATE_MISSING}


BEFORE = (3).to_bytes(8, "big") + bytes(32)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.MALFORMED),
        (pack("cloister/ledger-segment/v2", BEFORE, b"", b""), Reason.MALFORMED),
        (pack(LABEL, BEFORE, b""), Reason.MALFORMED),
        (pack(LABEL, BEFORE, b"", b"", b""), Reason.MALFORMED),
        (pack(LABEL, BEFORE[:-1], b"", b""), Reason.MALFORMED),
        (pack(LABEL, BEFORE + b"\0", b"", b""), Reason.MALFORMED),
        (pack(LABEL, BEFORE, bytes(MAX_NOTE_BYTES + 1), b""), Reason.MALFORMED),
        (pack(LABEL, BEFORE, b"", b"\0\0\0\2a"), Reason.MALFORMED),
        (pack(LABEL, BEFORE, b"", length_prefixed(bytes((256 << 10) + 1))), Reason.TOO_LARGE),
        (pack(LABEL, (MAX_SIZE + 1).to_bytes(8, "big") + bytes(32), b"", b""), Reason.TOO_LARGE),
        (pack(LABEL, BEFORE, b"", bytes(4 * ((1 << 16) + 1))), Reason.TOO_LARGE),
        (pack(LABEL, BEFORE, b"", bytes(MAX_SEGMENT_BYTES)), Reason.TOO_LARGE),
    ],
    ids=[
        "nothing", "version", "a field short", "a field more", "a byte short", "a byte long", "certificate", "cut leaf",
        "a leaf too large", "a log too large", "too many leaves", "too large",
    ],
)  # fmt: skip
def test_what_is_no_segment_is_refused(data, reason):
    with pytest.raises(WireError) as caught:
        Segment.decode(data)
    assert caught.value.reason is reason


@given(st.binary(max_size=200))
def test_bytes_are_a_segment_or_are_refused(data):
    try:
        Segment.decode(pack(LABEL, BEFORE, b"", data))
    except WireError:
        return


def test_states_in_it_are_the_ones_that_were_sealed():
    """The fixture says what it claims to: six states, each of its own content."""
    assert len({sealed_state(number) for number in range(1, 7)}) == len(set(LOG.leaves)) == 6
