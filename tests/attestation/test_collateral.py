"""Endorsements never go backwards: what is read from them, what is remembered, and who is refused for it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from softtee.certificates import revocation_list
from softtee.chip import Chip, SoftwareRoot
from tests.attestation.conftest import attest_with
from tests.attestation.vectors import folder
from tests.world import ChipProvider, World
from trusted.attestation import collateral
from trusted.attestation.binding import host_data
from trusted.attestation.collateral import Endorsement, EndorsementKind, FloorKeeper, Floors, endorsements_of
from trusted.attestation.composite import EvidenceBundle, OpenTranscript
from trusted.channel.transcript import WORKER
from trusted.errors import AttestationError, Reason

DAY = timedelta(days=1)
MONDAY = datetime(2026, 11, 2, tzinfo=UTC)
NUMBERED = Endorsement(EndorsementKind.TCB_INFO, "TDX 90c06f000000", MONDAY, MONDAY + 30 * DAY, 18)
DATED = Endorsement(EndorsementKind.OCSP, "serial 7", MONDAY, MONDAY + 7 * DAY)
UNDATED = Endorsement(EndorsementKind.JWKS, "google")
ONE, OTHER = b"\x01" * 64, b"\x02" * 64


def refused(floors: Floors, endorsement: Endorsement, machine: bytes = ONE) -> bool:
    try:
        floors.require([endorsement], machine)
    except AttestationError as error:
        return error.reason is Reason.COLLATERAL_ROLLBACK
    return False


def test_a_lower_number_is_refused_from_anyone() -> None:
    floors = Floors().raised_by([NUMBERED], ONE)
    lower = replace(NUMBERED, number=17, issued=MONDAY + DAY)
    assert refused(floors, lower, ONE)
    assert refused(floors, lower, OTHER)
    assert not refused(floors, NUMBERED, ONE)
    assert not refused(floors, replace(NUMBERED, number=19), OTHER)


def test_an_earlier_date_is_refused_from_the_same_machine_alone_when_numbers_order_the_rest() -> None:
    floors = Floors().raised_by([NUMBERED], ONE)
    earlier = replace(NUMBERED, issued=MONDAY - timedelta(seconds=1))
    assert refused(floors, earlier, ONE)
    assert not refused(floors, earlier, OTHER)
    assert not refused(floors, replace(NUMBERED, issued=MONDAY + DAY), ONE)


def test_an_earlier_date_of_what_has_no_number_is_refused_from_anyone() -> None:
    floors = Floors().raised_by([DATED], ONE)
    for machine in (ONE, OTHER, b""):
        assert refused(floors, replace(DATED, issued=MONDAY - timedelta(seconds=1)), machine)
        assert not refused(floors, DATED, machine)


def test_a_number_or_date_that_disappears_is_refused() -> None:
    assert refused(Floors().raised_by([NUMBERED], ONE), replace(NUMBERED, issued=None))
    crl = Endorsement(EndorsementKind.CRL, "ARK-Genoa", MONDAY, MONDAY + DAY)
    floors = Floors().raised_by([crl], ONE)
    assert refused(floors, replace(crl, issued=MONDAY - DAY))


def test_each_issuer_and_kind_has_its_own_floor() -> None:
    floors = Floors().raised_by([NUMBERED], ONE)
    assert not refused(floors, replace(NUMBERED, number=1, name="SGX 90c06f000000", issued=MONDAY - DAY))
    assert not refused(floors, replace(NUMBERED, number=1, kind=EndorsementKind.QE_IDENTITY, issued=MONDAY - DAY))


def test_what_has_neither_number_nor_date_has_no_order() -> None:
    assert not Floors().raised_by([UNDATED], ONE).marks


def test_floors_are_a_value_and_never_fall() -> None:
    first = Floors()
    second = first.raised_by([NUMBERED], ONE)
    assert not first.marks
    third = second.raised_by([replace(NUMBERED, number=3, issued=MONDAY - DAY)], ONE)
    assert third.marks == second.marks


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([ONE, OTHER])), max_size=12))
def test_whatever_is_seen_in_whatever_order_floors_only_rise(seen: list[tuple[int, int, bytes]]) -> None:
    floors = Floors()
    for number, day, machine in seen:
        endorsement = replace(NUMBERED, number=number, issued=MONDAY + day * DAY)
        raised = floors.raised_by([endorsement], machine)
        assert not refused(raised, replace(endorsement, number=3, issued=MONDAY + 3 * DAY), machine)
        for key, mark in floors.marks.items():
            later = raised.marks[key]
            assert (later.number or 0) >= (mark.number or 0)
            assert (later.issued or MONDAY) >= (mark.issued or MONDAY)
        floors = raised


def test_memory_is_bounded_and_the_newest_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collateral, "_MAX_MARKS", 4)
    floors = Floors()
    for number in range(8):
        floors = floors.raised_by([replace(DATED, name=f"serial {number}")])
    assert [name for _, name, _ in floors.marks] == [f"serial {number}" for number in range(4, 8)]


def test_what_is_refused_is_not_remembered() -> None:
    keeper = FloorKeeper()
    keeper.see([NUMBERED], ONE)
    with pytest.raises(AttestationError):
        keeper.see([replace(DATED, name="new"), replace(NUMBERED, number=1)], ONE)
    assert keeper.floors == Floors().raised_by([NUMBERED], ONE)


def test_a_peer_with_an_older_revocation_list_is_refused_after_a_newer_was_seen(
    software_root: SoftwareRoot, chip: Chip
) -> None:
    world = World(software_root, chip)
    now = chip_time(chip)
    transcript = OpenTranscript((b"one transcript",))

    def appraise(crl_number: int) -> None:
        crl = revocation_list(software_root.ark, now=now, number=crl_number)
        provider = ChipProvider(
            replace(chip, crl=crl), b"\xbb" * 48, host_data(WORKER, world.charter.digest, world.plan.digest)
        )
        evidence = EvidenceBundle.collect(provider, transcript)
        world.federation.appraise(WORKER, evidence, transcript, now + timedelta(minutes=5))

    for number in (5, 5, 6):
        appraise(number)
    with pytest.raises(AttestationError) as error:
        appraise(5)
    assert error.value.reason is Reason.COLLATERAL_ROLLBACK
    appraise(6)


def chip_time(chip: Chip) -> datetime:
    (found,) = collateral.read_crl(chip.crl)
    assert found.issued is not None
    return found.issued


def test_the_list_of_a_chip_is_read_with_its_issuer_number_and_dates(chip: Chip, now: datetime) -> None:
    (found,) = endorsements_of(attest_with(chip))
    assert (found.kind, found.name, found.number) == (EndorsementKind.CRL, "ARK-Genoa", 1)
    assert found.issued is not None
    assert found.expires is not None
    assert found.issued <= now < found.expires
    assert endorsements_of(replace(attest_with(chip), crl=b"")) == ()


def test_parts_that_no_verifier_checks_raise_no_floor(chip: Chip) -> None:
    stranger = replace(attest_with(chip), parts=(("ocsp", b"\x00\x00\x00\x01\x30"),))
    assert endorsements_of(stranger) == endorsements_of(attest_with(chip))


def test_real_lists_and_real_collateral_are_read() -> None:
    (found,) = collateral.read_crl((folder("anchors", "amd") / "crl_ark_genoa_2022-10.der").read_bytes())
    assert (found.name, f"{found.issued:%Y-%m-%d}", f"{found.expires:%Y-%m-%d}") == (
        "ARK-Genoa",
        "2022-10-31",
        "2023-10-31",
    )
    vector = folder("tdx", "v4_uptodate_phala")
    listed = json.loads((vector / "provenance.json").read_text())["expected"]["collateral"]
    tcb_info, qe_identity, root, pck = collateral.read_intel((vector / "collateral.json").read_bytes())
    assert tcb_info.name == "TDX b0c06f000000"
    assert tcb_info.number == listed["tcb_eval"]
    assert tcb_info.issued == datetime.fromisoformat(listed["tcb_issue"])
    assert qe_identity.expires == datetime.fromisoformat(listed["qe_next"])
    assert (root.kind, pck.kind) == (EndorsementKind.CRL, EndorsementKind.CRL)
    assert pck.number is not None


@given(st.binary(max_size=300) | st.dictionaries(st.text(max_size=5), st.text(max_size=5)).map(json.dumps))
def test_anything_else_is_refused_and_nothing_worse(content: bytes | str) -> None:
    data = content.encode() if isinstance(content, str) else content
    for read in (collateral.read_crl, collateral.read_intel, collateral.read_ocsp):
        with pytest.raises(AttestationError):
            read(data)


@pytest.mark.parametrize(("offset", "left"), [(timedelta(0), 0), (DAY, 1), (timedelta(seconds=-1), -1), (8 * DAY, 8)])
def test_days_left_are_whole_days(offset: timedelta, left: int) -> None:
    assert collateral.days_left(replace(NUMBERED, expires=MONDAY + offset), MONDAY) == left
    assert collateral.days_left(UNDATED, MONDAY) is None
