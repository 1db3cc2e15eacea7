"""An admitted aggregator that asks for more than documents allow: a worker trusts it for this plan, and no further."""

from __future__ import annotations

from typing import Any

import pytest

from softtee.chip import Chip, SoftwareRoot
from tests.enclave.evaluations import world_of
from tests.evil_host.hosts import VICTIM, Host, joined
from tests.world import World
from trusted.blob import BlobKind
from trusted.errors import Reason, RoundError
from trusted.exchange import AGGREGATOR, Exchanged
from trusted.wire import sha256
from worker.participant import Evaluate


@pytest.fixture
def host(world: World) -> Host:
    return joined(Host(world), automatic=False)


def asked(host: Host, message: dict[str, object]) -> Reason:
    """Why the victim refuses ``message``, which comes authenticated from its aggregator."""
    host.aggregator._admissions.send("site-4", message)
    host.perform(host.aggregator._drain())
    site = host.sites[VICTIM]
    assert site.error is not None
    assert len(site.tasks) == 1
    return site.error.reason


def changed(host: Host, **changes: object) -> dict[str, Any]:
    """The open round's task for the victim, with some of it changed."""
    upload = {"blob": host.sites[VICTIM].tasks[-1].upload.hex(), "bytes": _upload_bytes(host)}
    return host.messages[VICTIM]["task"] | {"upload": upload} | changes


def _upload_bytes(host: Host) -> int:
    return host.sites[VICTIM].tasks[-1].upload_header.sealed_bytes


def test_a_task_beyond_the_plans_rounds_is_refused(host: Host) -> None:
    rounds = host.world.plan.document.rounds
    assert asked(host, changed(host, round=3 * rounds + 1)) is Reason.SITE_REFUSES


def test_a_task_of_a_round_before_the_last_is_refused(host: Host) -> None:
    for connection in host.sites:
        host.contribute(connection, host.sites[connection].tasks[-1])
    site = host.sites[VICTIM]
    assert site.tasks.pop().round == 2
    assert asked(host, changed(host, round=1)) is Reason.SITE_REFUSES


def test_a_model_with_another_header_than_the_plan_implies_is_refused(host: Host) -> None:
    model = {**changed(host)["model"], "header_sha256": "00" * 32}
    assert asked(host, changed(host, model=model)) is Reason.BLOB_HEADER


@pytest.mark.parametrize("change", [-1, 1, 1 << 30])
def test_an_upload_of_another_size_than_the_plan_implies_is_refused(host: Host, change: int) -> None:
    upload = {"blob": "00" * 16, "bytes": _upload_bytes(host) + change}
    assert asked(host, changed(host, upload=upload)) is Reason.BLOB_LAYOUT


def test_a_message_of_another_type_is_refused(host: Host) -> None:
    assert asked(host, {"type": "send-data"}) is Reason.MALFORMED


def test_a_field_that_no_task_has_is_refused(host: Host) -> None:
    assert asked(host, changed(host, also="the data")) is Reason.UNKNOWN_FIELD


def test_a_task_without_an_upload_is_refused(host: Host) -> None:
    task = changed(host)
    del task["upload"]
    assert asked(host, task) is Reason.MISSING_FIELD


def test_a_reason_that_does_not_exist_is_refused(host: Host) -> None:
    assert asked(host, {"type": "receipt", "round": 1, "reason": 999}) is Reason.MALFORMED


# --- evaluation ------------------------------------------------------------------------------------------------------


@pytest.fixture
def judging(software_root: SoftwareRoot, chip: Chip) -> Host:
    """A run whose plan has its model judged, in its first round."""
    return joined(Host(world_of(software_root, chip)), automatic=False)


def final(host: Host, number: int = 1, kind: BlobKind = BlobKind.FINAL) -> dict[str, Any]:
    """Judge this, said of a blob of ``kind``; none of its size is looked at before it is fetched."""
    header = Exchanged.of(host.world.plan).header(kind, number, AGGREGATOR)
    announced = changed(host)["model"] | {"header_sha256": sha256(header.encode()).hex()}
    return {"type": "evaluate", "round": number, "model": announced}


def test_a_model_is_judged_where_the_plan_says_so(judging: Host) -> None:
    message = final(judging)
    assert isinstance(judging.sites[VICTIM].participant.take(message, judging.now), Evaluate)


def test_a_model_is_not_judged_where_the_plan_does_not_say_so(host: Host) -> None:
    assert asked(host, final(host)) is Reason.SITE_REFUSES


def test_a_model_beyond_the_plans_rounds_or_of_one_before_the_last_is_not_judged(judging: Host) -> None:
    rounds = judging.world.plan.document.rounds
    assert asked(judging, final(judging, 3 * rounds + 1)) is Reason.SITE_REFUSES
    for number in (2, 1):
        message = final(judging, number)
        if number == 2:
            judging.sites[VICTIM].participant.take(message, judging.now)
    with pytest.raises(RoundError) as refused:
        judging.sites[VICTIM].participant.take(message, judging.now)
    assert refused.value.reason is Reason.SITE_REFUSES


@pytest.mark.parametrize("kind", [BlobKind.MODEL, BlobKind.STATE, BlobKind.RELEASE])
def test_a_blob_of_another_kind_is_not_judged(judging: Host, kind: BlobKind) -> None:
    assert asked(judging, final(judging, kind=kind)) is Reason.BLOB_HEADER


def test_a_field_that_no_evaluation_has_is_refused(judging: Host) -> None:
    assert asked(judging, final(judging) | {"rows": [1, 2]}) is Reason.UNKNOWN_FIELD
