"""The commands as processes: a federation of three sites that trains, loses one, releases; and what is refused.

One federation for the whole file, because starting torch in each enclave is what takes the time.
"""

from __future__ import annotations

import base64
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from tests.console.conftest import Answer
from tests.console.processes import (
    OTHER,
    RECIPIENT,
    ROOT,
    SITES,
    Consortium,
    Running,
    allow,
    cloister,
    establish,
    made,
    until,
)
from tests.console.sealing import SealedSite

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # the first test of each story waits for the whole story

LOST = "site-3"
ROUNDS = 3
_TIMING = ["--minimum", 2, "--lease-s", 5, "--reattest-s", 3, "--round-s", 120]
_START_S = 120.0


@dataclass
class Story:
    """What happened, once it is over."""

    consortium: Consortium
    workers: dict[str, Running]
    intruder: Running
    watched: Running
    attested: set[str]
    waited_for: list[str]
    sealed: SealedSite
    ungranted: Running


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """A federation with a host that serves; its processes end with the tests, however those end."""
    plans = {"main": ["--rounds", ROUNDS, *_TIMING], "other": ["--rounds", 50, *_TIMING]}
    consortium = establish(tmp_path_factory.mktemp("federation"), plans)
    allow(consortium, "site-1", "main", "other")
    allow(consortium, "site-2", "main")
    allow(consortium, "site-3", "main")
    try:
        consortium.open_host()
        yield consortium
    finally:
        consortium.end()


@pytest.fixture(scope="module")
def story(consortium: Consortium) -> Story:
    """The run of the plan ``main``: an intruder is refused, one worker dies in round 1, the rest finish."""
    consortium.serve("main")
    intruder = consortium.join(LOST, "main", chip="other-chip", name="intruder")
    sealed = SealedSite(consortium, OTHER, "main")
    data = sealed.serve()
    ungranted = consortium.join(OTHER, "main", name="ungranted", data=data)
    intruder.until_said(r"(ATT-203 TRUST_ANCHOR)", _START_S)
    intruder.end()
    ungranted.ended(_START_S)
    sealed.grant()
    workers = {site: consortium.join(site, "main", data=data if site == OTHER else None) for site in SITES}
    until("three attested sites", lambda: consortium.attested("main") == set(SITES), _START_S)
    attested = consortium.attested("main")
    # A frozen worker is in the cohort and cannot answer: so it dies in the middle of a round, whatever the timing.
    enclave = int(workers[LOST].until_said(r"process ([0-9]+)"))
    os.kill(enclave, signal.SIGSTOP)
    try:
        assert consortium.order("start", "main", RECIPIENT).code == 0
        watched = consortium.start("watch", "run", "watch", *consortium.papers("main"), *consortium.host, "--json")
        until("the round has waited for the frozen site", lambda: has_waited_for(consortium, LOST))
        waited_for = [LOST]
    finally:
        os.kill(enclave, signal.SIGKILL)
    watched.ended(_START_S)
    return Story(consortium, workers, intruder, watched, attested, waited_for, sealed, ungranted)


def has_waited_for(consortium: Consortium, site: str) -> bool:
    """Whether a round waits for ``site`` alone, or has waited one lease for it while others still trained."""
    told = {(entry["event"], entry.get("member"), entry.get("outcome")) for entry in consortium.events("main")}
    lost = {("contribution", site, outcome) for outcome in ("gone", "silent")}
    return consortium.status("main").get("waiting_for") == [site] or bool(lost & told)


def test_a_lost_worker_costs_its_own_contribution_and_the_run_finishes(story: Story) -> None:
    envelope = json.loads(story.watched.output.read_text().splitlines()[-1])
    run = envelope["data"]["run"]
    assert (envelope["status"], run["state"], run["committed"]) == ("ok", "finished", ROUNDS)
    for site in set(SITES) - {LOST}:
        assert story.workers[site].ended() == 0
        assert f"Round {ROUNDS}: this site's update counted." in story.workers[site].said
        assert f"finished after {ROUNDS} rounds" in story.workers[site].said
    assert "this site's update" not in story.workers[LOST].said


def test_sealed_data_opens_in_the_granted_worker_alone_and_its_rows_are_proved_by_the_ledger(story: Story) -> None:
    """OTHER trained on data that lay sealed; before it was granted the key its worker was refused it."""
    sealed = story.sealed
    assert story.ungranted.process.returncode == 1
    assert "The app runs" not in story.ungranted.said
    log = made("keys", "log", "--keys", sealed.keys).data
    released = [entry["event"] for entry in log["log"]]
    assert (released.count("released"), released.count("refused")) == (1, 1)
    leaves = cloister("run", "log", *story.consortium.papers("main"), *story.consortium.host).data["leaves"]
    (committed,) = {leaf["dataset"] for leaf in leaves if leaf["kind"] == "admitted" and leaf["member"] == OTHER}
    of = ["--plan", story.consortium / "main.dsse.json", "--keys", sealed.keys]
    assert made("data", "check", sealed.file, *of).data["commitment"] == committed
    proof = story.consortium / "row.json"
    made("data", "prove", sealed.file, *of, "--row", 7, "--out", proof)
    shown = made("data", "verify-row", proof, "--commitment", committed).data
    header, *rows = (ROOT / "data" / "rand_hie" / f"{OTHER}.csv").read_text().splitlines()
    assert shown["row"] == dict(zip(header.split(","), rows[6].split(","), strict=True))
    assert list(story.consortium.folder.rglob("data.csv")) == []


def test_the_report_tells_where_the_time_of_each_round_went(story: Story) -> None:
    data = cloister("run", "report", *story.consortium.papers("main"), *story.consortium.host).data
    assert [(split["round"], split["outcome"]) for split in data["rounds"]] == [
        (number, "committed") for number in range(1, ROUNDS + 1)
    ]
    for split in data["rounds"]:
        assert split["stages"]["train.max"] > 0
        assert split["seconds"] >= split["stages"]["train.max"]
    assert 0 < data["totals"]["bytes_up"] <= data["totals"]["host_bytes_in"]
    assert data["medians"]["warm"]["seconds"] > 0


def test_the_log_of_the_run_is_listed_verified_and_drawn_again(story: Story) -> None:
    papers = [*story.consortium.papers("main"), *story.consortium.host]
    credentials = [
        word for site in SITES for word in ("--credential", story.consortium / site / "credential.dsse.json")
    ]
    data = cloister("run", "log", *papers, *credentials).data
    kinds = [leaf["kind"] for leaf in data["leaves"]]
    assert (kinds[0], kinds.count("committed"), kinds[-2:]) == ("genesis", ROUNDS, ["ended", "state"])
    assert data["quorum"] == {"needed": 2, "verified": True}
    assert data["cosigned"] == {"checked": [RECIPIENT, OTHER], "unchecked": [], "absent": [LOST]}
    assert data["cohorts_drawn_again"] == kinds.count("opened")
    assert cloister("run", "log", *papers, "--known", f"{data['size']}:{data['root']}").code == 0
    refused = cloister("run", "log", *papers, "--known", f"{data['size'] + 1}:{'00' * 32}")
    assert refused.code == 5
    assert refused.error["code"].endswith("-1002")
    assert data["root"] in refused.error["message"]


def test_the_operator_of_a_killed_enclave_is_told(story: Story) -> None:
    assert story.workers[LOST].ended() == 1
    assert "ended by signal 9" in story.workers[LOST].said


def test_a_chip_of_another_root_is_refused_and_named(story: Story) -> None:
    assert "Admitted" not in story.intruder.said
    assert "ATT-203 TRUST_ANCHOR" in story.intruder.said


def test_everybody_was_attested_and_told_that_nothing_protects_them(story: Story) -> None:
    assert story.attested == set(SITES)
    for worker in story.workers.values():
        assert "NO HARDWARE PROTECTION" in worker.said
        assert "confined by" in worker.said


def test_each_worker_has_a_private_folder_for_its_plan_to_remember_in(story: Story) -> None:
    for site, worker in story.workers.items():
        folders = list((story.consortium / site / "state").iterdir())
        digest = cloister("plan", "show", story.consortium / "main.dsse.json", *story.consortium.charter).data["digest"]
        assert digest in {folder.name for folder in folders}
        for folder in (story.consortium / site / "state", *folders):
            assert folder.stat().st_mode & 0o777 == 0o700
        assert f"remembers in {folders[0].parent}" in worker.said
        assert "Remembers nothing" not in worker.said


def test_who_was_admitted_under_which_policy_until_when_is_proved_by_the_releases_key(story: Story) -> None:
    answer = cloister("run", "results", *story.consortium.papers("main"), *story.consortium.host)
    assert (answer.code, answer.data["unverified"]) == (0, [])
    results = answer.data["results"]
    assert {entry["member"] for entry in results} == set(SITES)
    assert len(results) > len(SITES)  # each of them renewed its lease
    assert {entry["charter_policy"] for entry in results} == {"yes"}


def test_a_worker_keeps_its_own_result_about_the_aggregator_and_the_key_that_verifies_the_hosts(
    story: Story, tmp_path: Path
) -> None:
    site = sorted(set(SITES) - {LOST})[0]
    lines = [
        json.loads(line)
        for line in (story.consortium / site / f"{site}-main.log").read_text().splitlines()
        if "{" in line
    ]
    entries = [line for line in lines if line.get("event") == "attested"]
    assert len(entries) > 1
    (tmp_path / "own.jwt").write_text(entries[0]["ear"])
    own = cloister("attest", "result", tmp_path / "own.jwt", "--key", entries[0]["key"], "--at", at_of(entries[0]))
    assert own.data["subject"].endswith(":aggregator")
    papers = [*story.consortium.papers("main"), *story.consortium.host]
    assert cloister("run", "results", *papers, "--key", entries[0]["aggregator_key"]).code == 0
    wrong = cloister("run", "results", *papers, "--key", entries[0]["key"])
    assert (wrong.code, wrong.data["results"]) == (4, [])
    assert {entry["code"] for entry in wrong.data["unverified"]} == {"ATT-209"}


def at_of(entry: dict[str, str]) -> str:
    """When the result in a log's line was issued."""
    claims = json.loads(base64.urlsafe_b64decode(entry["ear"].split(".")[1] + "=="))
    return f"{datetime.fromtimestamp(claims['iat'], UTC):%Y-%m-%dT%H:%M:%SZ}"


def opened(story: Story, member: str, key: str, out: Path) -> Answer:
    consortium = story.consortium
    sealing = ["--member", member, "--key", consortium / key / "sealing-key.pem", "--out", out]
    return cloister("model", "open", *consortium.papers("main"), *consortium.host, *sealing)


def test_the_recipient_opens_the_model_with_its_provenance(story: Story, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    answer = opened(story, RECIPIENT, RECIPIENT, out)
    assert (answer.code, answer.data["assurance"], answer.data["rounds"]) == (0, "none", str(ROUNDS))
    with safe_open(out, "numpy") as file:
        metadata = file.metadata()
    assert (metadata["assurance"], metadata["protection"]) == ("none", "NO HARDWARE PROTECTION")
    initial, final = load_file(story.consortium / "initial.safetensors"), load_file(out)
    assert {name: tensor.shape for name, tensor in final.items()} == {name: t.shape for name, t in initial.items()}
    assert any(not np.array_equal(initial[name], final[name]) for name in final)
    assert out.stat().st_mode & 0o777 == 0o600


def test_a_member_who_is_no_recipient_is_refused(story: Story, tmp_path: Path) -> None:
    refused = opened(story, OTHER, OTHER, tmp_path / "model.safetensors")
    assert refused.code == 3
    assert not (tmp_path / "model.safetensors").exists()


def test_another_members_key_does_not_open_the_model(story: Story, tmp_path: Path) -> None:
    assert opened(story, RECIPIENT, OTHER, tmp_path / "model.safetensors").code == 5
    assert not (tmp_path / "model.safetensors").exists()


def test_a_plan_that_the_site_does_not_list_never_leaves_it(consortium: Consortium) -> None:
    worker = consortium.join(LOST, "other")
    assert worker.ended(_START_S) == 1
    assert "DOC-311 SITE_REFUSES" in worker.said
    assert "docs/runbook.md#doc-311" in worker.said
    assert "Admitted" not in worker.said


def test_a_stopped_run_ends_its_aggregator_and_its_workers_and_releases_nothing(
    consortium: Consortium, tmp_path: Path
) -> None:
    aggregator, worker = consortium.serve("other"), consortium.join("site-1", "other")
    worker.until_said("Admitted", _START_S)
    assert consortium.order("start", "other", "site-2").code == 0
    assert consortium.order("stop", "other", "site-3").code == 0
    assert worker.ended() == 0
    assert "The run is over: stopped" in worker.said
    assert aggregator.ended() == 0
    assert consortium.status("other")["state"] == "stopped"
    key = ["--member", RECIPIENT, "--key", consortium / RECIPIENT / "sealing-key.pem", "--out", tmp_path / "m"]
    answer = cloister("model", "open", *consortium.papers("other"), *consortium.host, *key)
    assert "released no model" in answer.error["message"]


def test_an_order_needs_a_members_key(consortium: Consortium, tmp_path: Path) -> None:
    assert cloister("member", "keygen", "stranger", "--out", tmp_path / "s").code == 0
    key = ["--key", tmp_path / "s" / "signing-key.pem"]
    refused = cloister("run", "start", *consortium.papers("main"), *consortium.host, *key)
    assert (refused.code, refused.error["code"]) == (3, "DOC-305")


def test_doctor_sees_a_coordinator_that_serves(consortium: Consortium, tmp_path: Path) -> None:
    answer = cloister("doctor", *consortium.host, "--state", tmp_path, "--site", consortium / "site-1")
    checks = {check["name"]: check for check in answer.data["checks"]}
    assert [checks[f"coordinator {step}"]["severity"] for step in ("tcp", "tls", "health", "blobs")] == ["ok"] * 4
    assert checks["site folder"]["severity"] == "ok"


def test_doctor_names_the_issuer_of_a_certificate_that_does_not_hold(consortium: Consortium, tmp_path: Path) -> None:
    answer = cloister("doctor", "--coordinator", consortium.coordinator, "--state", tmp_path)
    tls = next(check for check in answer.data["checks"] if check["name"] == "coordinator tls")
    assert (answer.code, tls["severity"]) == (1, "problem")
    assert "issued by CN=" in tls["found"]
