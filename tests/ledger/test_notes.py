"""Signed notes and cosignatures: the published example, and everything that is not quite one.

The example is of golang.org/x/mod/sumdb/note (example_test.go, note_test.go), which C2SP's signed-note specifies; the
cosigned checkpoint stands in c2sp.org/tlog-cosignature.
"""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from trusted.errors import LedgerError, ProtocolError, Reason
from trusted.ledger.notes import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    MAX_TIME_S,
    Note,
    NoteSignature,
    SignatureType,
    VerifierKey,
    cosign,
    sign,
)

PETER = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_SEED = b64decode("AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz")[1:]
ENOCH = "EnochRoot+af0cfe78+ATtqJ7zOtqQtYqOo0CpvDXNlMhV3HeJDpjrASKGLWdop"
TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_LINE = (
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
ENOCH_LINE = (
    "— EnochRoot rwz+eBzmZa0SO3NbfRGzPCpDckykFXSdeX+MNtCOXm2/5n2tiOHp+vAF1aGrQ5ovTG01oOTGwnWLox33WWd1RvMc+QQ=\n"
)
COSIGNED = """example.com/behind-the-sofa
20852163
CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=

— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=
— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==
"""  # noqa: E501
WITNESS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


def note(*lines: str, text: str = TEXT) -> bytes:
    return (text + "\n" + "".join(lines)).encode()


def key_of(secret: Ed25519PrivateKey, name: str, kind: SignatureType) -> VerifierKey:
    return VerifierKey(name, kind, secret.public_key().public_bytes_raw())


def reason_of(call) -> Reason:
    with pytest.raises(LedgerError) as caught:
        call()
    return caught.value.reason


def test_the_published_note_is_made_byte_for_byte():
    line = sign(TEXT, "PeterNeumann", Ed25519PrivateKey.from_private_bytes(PETER_SEED))
    assert Note(TEXT, (line,)).encode() == note(PETER_LINE)


def test_the_published_note_verifies_and_unknown_lines_are_ignored():
    peter, enoch = VerifierKey.parse(PETER), VerifierKey.parse(ENOCH)
    parsed = Note.parse(note(PETER_LINE, ENOCH_LINE))
    assert parsed.text == TEXT
    assert parsed.encode() == note(PETER_LINE, ENOCH_LINE)
    assert parsed.signers([peter]) == {peter}
    assert parsed.signers([peter, enoch]) == {peter, enoch}


def test_a_note_that_no_known_key_signed_is_refused():
    assert (
        reason_of(lambda: Note.parse(note(ENOCH_LINE)).signers([VerifierKey.parse(PETER)])) is Reason.LEDGER_SIGNATURE
    )
    assert reason_of(lambda: Note.parse(note(PETER_LINE)).signers([])) is Reason.LEDGER_SIGNATURE


def test_a_line_of_a_known_key_that_does_not_verify_refuses_the_whole_note():
    raw = bytearray(b64decode(PETER_LINE.split(" ")[2]))
    raw[-1] ^= 1
    bad = f"— PeterNeumann {b64encode(raw).decode()}\n"
    known = [VerifierKey.parse(PETER), VerifierKey.parse(ENOCH)]
    assert reason_of(lambda: Note.parse(note(bad, ENOCH_LINE)).signers(known)) is Reason.LEDGER_SIGNATURE
    assert Note.parse(note(bad, ENOCH_LINE)).signers(known[1:]) == {known[1]}


@pytest.mark.parametrize("text", [TEXT.replace("crypto", "Crypto"), TEXT + "\n", TEXT[:-1] + " \n"])
def test_a_signature_is_of_exactly_one_text(text):
    parsed = Note.parse(note(PETER_LINE, text=text))
    assert reason_of(lambda: parsed.signers([VerifierKey.parse(PETER)])) is Reason.LEDGER_SIGNATURE


def test_a_text_may_hold_empty_lines():
    secret = Ed25519PrivateKey.from_private_bytes(PETER_SEED)
    text = "one\n\ntwo\n"
    made = Note(text, (sign(text, "PeterNeumann", secret),))
    assert Note.parse(made.encode()) == made


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        note(),
        note(PETER_LINE)[:-1],
        b"\x01" + note(PETER_LINE),
        b"\xff" + note(PETER_LINE),
        note(PETER_LINE).replace(b"\n", b"\r\n"),
        note("— Bad Name x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZI=\n"),
        note("— bad+name x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZI=\n"),
        note("—  x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZI=\n"),
        note("- PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZI=\n"),
        note(f"— {'n' * 201} x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZI=\n"),
        note("— short AAAAAA==\n"),
        note("— spelling x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZJ=\n"),
        note("— spelling x08go_ZJkuBS9UG_SffcvIAQxVBtiFupLLr8pAcElZI=\n"),
        note(f"— long {b64encode(bytes(8193)).decode()}\n"),
        note(PETER_LINE, "Unexpected line.\n"),
        note(*[PETER_LINE] * (MAX_SIGNATURES + 1)),
        b"\n\n" + PETER_LINE.encode(),
        b"",
    ],
)
def test_what_is_no_note_is_refused(data):
    assert reason_of(lambda: Note.parse(data)) is Reason.MALFORMED


def test_a_note_is_bounded():
    assert reason_of(lambda: Note.parse(note(PETER_LINE, text="a" * MAX_NOTE_BYTES + "\n"))) is Reason.TOO_LARGE


def test_a_note_may_have_as_many_signatures_as_a_charter_has_members():
    line = cosign(TEXT, f"cloister/{'0' * 64}/{'m' * 63}", WITNESS, time_s=MAX_TIME_S)
    whole = Note(TEXT, (line,) * MAX_SIGNATURES)
    assert Note.parse(whole.encode()) == whole


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: (text + "\n\n— a b\n").encode())))
def test_bytes_are_a_note_or_are_refused(data):
    try:
        parsed = Note.parse(data)
    except ProtocolError:
        return
    assert parsed.encode() == data


@pytest.mark.parametrize("text", [PETER, ENOCH])
def test_a_verifier_key_has_one_spelling(text):
    assert VerifierKey.parse(text).encode() == text


def test_every_mangled_verifier_key_is_refused():
    mangled = {PETER[i:j] for i in range(len(PETER)) for j in range(i + 1, len(PETER) + 1)} - {PETER}
    mangled |= {PETER[:at] + chr(ord(PETER[at]) + 1) + PETER[at + 1 :] for at in range(len(PETER))}
    mangled.add("PeterNeumann+cc469956+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TWBADKEY==")
    mangled.add("PeterNeumann+173116ae+ZRpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW")
    mangled.add(PETER + "A" * 300)
    for text in mangled:
        assert reason_of(lambda text=text: VerifierKey.parse(text)) is Reason.MALFORMED


def test_the_published_cosigned_checkpoint_is_read_with_its_time():
    parsed = Note.parse(COSIGNED.encode())
    assert parsed.encode() == COSIGNED.encode()
    cosignature = parsed.signatures[1]
    assert cosignature.key_id.hex() == "8d66cf3f"
    assert len(cosignature.signature) == 72
    assert int.from_bytes(cosignature.signature[:8], "big") == 1679315147


def test_a_cosignature_signs_what_the_specification_says():
    text = COSIGNED.partition("\n\n")[0] + "\n"
    made = cosign(text, "witness.example.com/w1", WITNESS, time_s=1679315147)
    message = (
        b"cosignature/v1\ntime 1679315147\nexample.com/behind-the-sofa\n20852163\n"
        b"CsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    )
    WITNESS.public_key().verify(made.signature[8:], message)
    key = key_of(WITNESS, "witness.example.com/w1", SignatureType.COSIGNATURE)
    assert Note(text, (made,)).signers([key]) == {key}
    assert VerifierKey.parse(key.encode()) == key
    assert key.encode().split("+")[2].startswith("BA")


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw[:7] + bytes([raw[7] ^ 1]) + raw[8:],
        lambda raw: raw[:-1] + bytes([raw[-1] ^ 1]),
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0",
        lambda raw: raw[8:],
        lambda raw: b"\x80" + raw[1:],
    ],
    ids=["time", "signature", "short", "long", "without a time", "time out of range"],
)
def test_a_changed_cosignature_is_refused(change):
    made = cosign(TEXT, "w", WITNESS, time_s=1)
    key = key_of(WITNESS, "w", SignatureType.COSIGNATURE)
    bad = NoteSignature(made.name, made.key_id, change(made.signature))
    with pytest.raises(LedgerError):
        Note(TEXT, (bad,)).signers([key])


def test_a_log_signature_is_never_a_cosignature_nor_the_reverse():
    log, witness = (key_of(WITNESS, "w", kind) for kind in (SignatureType.ED25519, SignatureType.COSIGNATURE))
    signed, cosigned = sign(TEXT, "w", WITNESS), cosign(TEXT, "w", WITNESS, time_s=1)
    assert log.key_id != witness.key_id
    assert reason_of(lambda: Note(TEXT, (signed,)).signers([witness])) is Reason.LEDGER_SIGNATURE
    assert reason_of(lambda: Note(TEXT, (cosigned,)).signers([log])) is Reason.LEDGER_SIGNATURE
    dressed = NoteSignature("w", witness.key_id, bytes(8) + signed.signature)
    assert reason_of(lambda: Note(TEXT, (dressed,)).signers([witness])) is Reason.LEDGER_SIGNATURE


@pytest.mark.parametrize("time_s", [-1, MAX_TIME_S + 1, 1 << 64])
def test_a_time_that_cannot_be_written_is_not_signed(time_s):
    assert reason_of(lambda: cosign(TEXT, "w", WITNESS, time_s=time_s)) is Reason.MALFORMED


def test_a_line_is_added_once():
    line = cosign(TEXT, "w", WITNESS, time_s=1)
    signed = Note.parse(note(PETER_LINE))
    assert signed.with_signatures(line, line).with_signatures(line).signatures == (*signed.signatures, line)
