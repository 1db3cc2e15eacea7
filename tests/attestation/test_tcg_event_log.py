"""The firmware's event log: parsed strictly, replayed, and believed only where it gives what is signed."""

from __future__ import annotations

import hashlib
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.attestation.quotes import Ak, Quote, draw_key
from trusted.attestation.appraise import verify
from trusted.attestation.formats.tcg_event_log import Bank, parse
from trusted.attestation.formats.tpm import Scheme
from trusted.errors import AttestationError, ProtocolError, Reason

SHA1, SHA256, SHA384 = (0x04, 20), (0x0B, 32), (0x0C, 48)
Algorithms = tuple[tuple[int, int], ...]
EV_NO_ACTION, EV_SEPARATOR, EV_IPL = 3, 4, 13


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


def header(*algorithms: tuple[int, int], signature: bytes = b"Spec ID Event03\x00", vendor: bytes = b"") -> bytes:
    listed = b"".join(number(name, 2) + number(size, 2) for name, size in algorithms)
    body = signature + number(0) + bytes([0, 2, 0, 2]) + number(len(algorithms)) + listed
    body += bytes([len(vendor)]) + vendor
    return number(0) + number(EV_NO_ACTION) + bytes(20) + number(len(body)) + body


def event(
    index: int, data: bytes, *, type: int = EV_IPL, algorithms: tuple[tuple[int, int], ...] = (SHA1, SHA256)
) -> bytes:
    named = {0x04: hashlib.sha1, 0x0B: hashlib.sha256, 0x0C: hashlib.sha384}
    digests = b"".join(number(name, 2) + named[name](data).digest() for name, _ in algorithms)
    return number(index) + number(type) + number(len(algorithms)) + digests + number(len(data)) + data


def extended(*contents: bytes, start: bytes = bytes(32)) -> bytes:
    value = start
    for content in contents:
        value = hashlib.sha256(value + hashlib.sha256(content).digest()).digest()
    return value


LOG = header(SHA1, SHA256) + event(4, b"loader") + event(9, b"initrd") + event(4, b"kernel")


def refused(log: bytes) -> Reason:
    with pytest.raises(AttestationError) as error:
        parse(log).replay(Bank.SHA256)
    return error.value.reason


def test_a_replay_extends_each_register_in_order() -> None:
    assert parse(LOG).replay(Bank.SHA256) == {4: extended(b"loader", b"kernel"), 9: extended(b"initrd")}


def test_a_replay_in_the_other_bank_has_its_digests() -> None:
    log = parse(header(SHA384) + event(4, b"a", algorithms=(SHA384,)))
    assert log.replay(Bank.SHA384) == {4: hashlib.sha384(bytes(48) + hashlib.sha384(b"a").digest()).digest()}


def test_a_log_without_the_digests_that_are_needed_is_refused() -> None:
    with pytest.raises(AttestationError) as error:
        parse(LOG).replay(Bank.SHA384)
    assert error.value.reason is Reason.RUNTIME_MEASUREMENT
    assert refused(header(SHA1) + event(4, b"a", algorithms=(SHA1,))) is Reason.RUNTIME_MEASUREMENT


def test_events_that_only_inform_change_nothing() -> None:
    assert parse(LOG + event(4, b"note", type=EV_NO_ACTION)).replay(Bank.SHA256) == parse(LOG).replay(Bank.SHA256)
    everywhere = event(0xFFFFFFFF, b"note", type=EV_NO_ACTION)
    assert parse(LOG + everywhere).replay(Bank.SHA256) == parse(LOG).replay(Bank.SHA256)


def test_register_0_starts_with_the_locality_that_the_log_names() -> None:
    locality = event(0, b"StartupLocality\x00\x03", type=EV_NO_ACTION)
    log = parse(header(SHA1, SHA256) + locality + event(0, b"firmware"))
    assert log.replay(Bank.SHA256) == {0: extended(b"firmware", start=bytes(31) + b"\x03")}
    assert log.replay(Bank.SHA256, startup_locality=False) == {0: extended(b"firmware")}


@pytest.mark.parametrize("content", [b"", b"\x01", b"\x05", b"\x03\x00"])
def test_a_locality_that_no_tpm_starts_with_is_refused(content: bytes) -> None:
    locality = event(0, b"StartupLocality\x00" + content, type=EV_NO_ACTION)
    assert refused(header(SHA1, SHA256) + locality) is Reason.EVIDENCE_FORMAT


def test_a_locality_named_twice_or_late_is_refused() -> None:
    locality = event(0, b"StartupLocality\x00\x03", type=EV_NO_ACTION)
    assert refused(header(SHA1, SHA256) + locality + locality) is Reason.EVIDENCE_FORMAT
    assert refused(header(SHA1, SHA256) + event(0, b"firmware") + locality) is Reason.EVIDENCE_FORMAT


@pytest.mark.parametrize(
    "log",
    [
        b"",
        header(SHA256)[:-1],
        number(1) + header(SHA256)[4:],
        header(),
        header(SHA256, SHA256),
        header((0x0B, 0)),
        header((0x0B, 65)),
        header(*((name, 32) for name in range(9))),
        header(SHA256, signature=b"Spec ID Event02\x00"),
        header(SHA256)[:8] + b"\x01" + header(SHA256)[9:],
        LOG + event(24, b"a"),
        LOG + event(0xFFFFFFFF, b"a"),
        LOG + event(4, b"a", algorithms=(SHA256,)),
        LOG + event(4, b"a", algorithms=(SHA256, SHA256)),
        LOG + event(4, b"a", algorithms=(SHA256, SHA384)),
        LOG + b"\x00",
        LOG + b"\xff" * 64,
        LOG + bytes(64),
    ],
)
def test_a_log_in_another_form_is_refused(log: bytes) -> None:
    assert refused(log) is Reason.EVIDENCE_FORMAT


def test_a_log_cut_inside_an_event_is_refused() -> None:
    whole = {len(header(SHA1, SHA256)), len(LOG) - len(event(9, b"initrd")) - len(event(4, b"kernel"))}
    whole |= {len(LOG) - len(event(4, b"kernel")), len(LOG)}
    for end in range(len(LOG)):
        if end not in whole:
            assert refused(LOG[:end]) is Reason.EVIDENCE_FORMAT


def test_a_log_of_too_many_events_is_refused() -> None:
    tiny = event(4, b"")
    parse(header(SHA1, SHA256) + tiny * 4096)
    assert refused(header(SHA1, SHA256) + tiny * 4097) is Reason.EVIDENCE_FORMAT


def test_a_log_explains_the_registers_that_it_leads_to(now: datetime) -> None:
    ak = Ak(draw_key(Scheme.ECDSA_P256_SHA256))
    quote = Quote(values=(extended(b"loader", b"kernel"), extended(b"initrd"), bytes(32)))
    claims = verify(ak.evidence(quote, event_log=LOG), [ak.root], now).claims
    assert claims.quote.replayed == {4, 9}
    assert verify(ak.evidence(quote), [ak.root], now).claims.quote.replayed == frozenset()


def test_an_altered_log_explains_less(now: datetime) -> None:
    """Its data may be altered unseen, as TCG's logs are; a digest may not, and nothing of the data becomes a claim."""
    ak = Ak(draw_key(Scheme.ECDSA_P256_SHA256))
    quote = Quote(values=(extended(b"loader", b"kernel"), extended(b"initrd"), bytes(32)))
    swapped = header(SHA1, SHA256) + event(4, b"kernel") + event(9, b"initrd") + event(4, b"loader")
    shorter = header(SHA1, SHA256) + event(4, b"loader") + event(9, b"initrd")
    more = LOG + event(9, b"more")
    elsewhere = header(SHA1, SHA256) + event(9, b"loader") + event(4, b"initrd") + event(9, b"kernel")
    for log, explained in ((swapped, {9}), (shorter, {9}), (more, {4}), (elsewhere, set())):
        assert verify(ak.evidence(quote, event_log=log), [ak.root], now).claims.quote.replayed == explained


@given(st.binary(max_size=300))
def test_any_bytes_read_or_are_refused(content: bytes) -> None:
    for log in (content, LOG + content, header(SHA256) + content):
        try:
            parse(log).replay(Bank.SHA256)
        except ProtocolError:
            continue
