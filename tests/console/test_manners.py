"""A run and its sites told to pause, to leave and to stop, as real processes, one after the other on one federation."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console.processes import SITES, Consortium, Running, allow, cloister, establish, made, until

pytestmark = pytest.mark.slow

PLAN = "long"
_TIMING = ["--minimum", 2, "--lease-s", 5, "--reattest-s", 3, "--round-s", 120, "--rounds", 5000]
_START_S = 180.0


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consortium]:
    """A federation whose run is under way; its processes end with the tests, however those end."""
    consortium = establish(tmp_path_factory.mktemp("manners"), {PLAN: _TIMING})
    for site in SITES:
        allow(consortium, site, PLAN)
    try:
        listen = ["--state", consortium / "host", "--listen", "127.0.0.1:0"]
        host = consortium.start("host", "coordinator", "serve", *consortium.charter, *listen)
        consortium.coordinator = f"127.0.0.1:{host.until_said(r'Serving on 127[.]0[.]0[.]1:([0-9]+)')}"
        yield consortium
    finally:
        consortium.end()


@pytest.fixture(scope="module")
def workers(consortium: Consortium) -> dict[str, Running]:
    """The workers of all sites, in a run that has committed its first round."""
    consortium.serve(PLAN)
    joined = {site: consortium.join(site, PLAN) for site in SITES}
    until("three attested sites", lambda: consortium.attested(PLAN) == set(SITES), _START_S)
    assert consortium.order("start", PLAN, "site-1").code == 0
    until("the first round", lambda: committed(consortium) >= 1, _START_S)
    return joined


def committed(consortium: Consortium) -> int:
    return int(str(consortium.status(PLAN).get("committed", 0)))


def goes_on(consortium: Consortium) -> None:
    before = committed(consortium)
    until("two more rounds", lambda: committed(consortium) >= before + 2, _START_S)


def member(consortium: Consortium, site: str) -> dict[str, Any]:
    members: Any = consortium.status(PLAN)["members"]
    return next(dict(item) for item in members if item["member"] == site)


def wants(consortium: Consortium, wish: str, site: str) -> dict[str, Any]:
    return made("worker", wish, *consortium.papers(PLAN), "--site", consortium / site).data


def enclave_of(worker: Running) -> int:
    return int(worker.until_said(r"process ([0-9]+)"))


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_paused_run_outlives_its_drained_aggregator_paused_and_goes_on_when_resumed(
    consortium: Consortium, workers: dict[str, Running]
) -> None:
    answer = consortium.order("pause", PLAN, "site-2")
    assert answer.code == 0
    until("the run pauses", lambda: consortium.status(PLAN)["state"] == "paused")
    time.sleep(2)  # a round that was being sealed as the pause came opens yet
    until("the open round ends", lambda: consortium.status(PLAN)["waiting_for"] == [])
    held = committed(consortium)
    aggregator = next(one for one in consortium.running if one.output.name == f"aggregator-{PLAN}.out")
    os.kill(int(aggregator.until_said(r"process ([0-9]+)")), signal.SIGTERM)
    assert aggregator.ended(10) == 0
    consortium.serve(PLAN)
    until("everybody is back", lambda: consortium.attested(PLAN) == set(SITES), _START_S)
    until("the run is recovered", lambda: any(e["event"] == "recovered" for e in consortium.events(PLAN)), _START_S)
    time.sleep(3)
    assert consortium.status(PLAN)["state"] == "paused"
    assert committed(consortium) == held
    assert all(worker.process.poll() is None for worker in workers.values())
    assert consortium.order("resume", PLAN, "site-3").code == 0
    goes_on(consortium)
    assert consortium.status(PLAN)["state"] == "running"


def test_a_site_pauses_and_comes_back_while_the_others_go_on(
    consortium: Consortium, workers: dict[str, Running]
) -> None:
    assert wants(consortium, "pause", "site-3")["wish"] == "pause"
    until("the pause is told", lambda: member(consortium, "site-3")["away_reason"] == "RND-611")
    goes_on(consortium)
    assert "site-3" in consortium.attested(PLAN)
    assert "Takes no further task" in workers["site-3"].said
    told = cloister("run", "status", *consortium.papers(PLAN), *consortium.host).data["waits"]
    assert any("site-3: its operator paused it (RND-611)" in sentence for sentence in told)
    assert wants(consortium, "resume", "site-3")["before"] == "pause"
    until("it is back", lambda: member(consortium, "site-3")["away_reason"] is None)
    goes_on(consortium)


def test_a_worker_that_is_asked_to_end_says_so_leaves_no_trainer_and_may_come_back(
    consortium: Consortium, workers: dict[str, Running]
) -> None:
    enclave = enclave_of(workers["site-2"])
    trainers = children_of(enclave)
    assert trainers
    begun = time.monotonic()
    os.kill(enclave, signal.SIGTERM)
    assert workers["site-2"].ended(10) == 0
    assert time.monotonic() - begun < 5
    assert not any(map(runs, trainers))
    assert "Asked to end" in workers["site-2"].said
    reasons = {event.get("reason") for event in consortium.events(PLAN) if event["event"] == "left"}
    assert "RND-613" in reasons
    workers["site-2"] = consortium.join("site-2", PLAN, name="site-2-again")
    until("it is back", lambda: consortium.attested(PLAN) == set(SITES), _START_S)
    goes_on(consortium)


def test_a_site_that_withdraws_trains_no_more_also_when_it_is_started_again_until_that_is_taken_back(
    consortium: Consortium, workers: dict[str, Running]
) -> None:
    trainers = children_of(enclave_of(workers["site-3"]))
    begun = time.monotonic()
    wants(consortium, "withdraw", "site-3")
    until("the trainer is gone", lambda: not any(map(runs, trainers)), 10)
    assert time.monotonic() - begun < 5
    assert workers["site-3"].ended(10) == 0
    again = consortium.join("site-3", PLAN, name="site-3-again")
    assert again.ended(_START_S) == 0
    assert "withdrawn from the plan (RND-612)" in again.said
    assert "Admitted" not in again.said
    goes_on(consortium)
    assert member(consortium, "site-3")["away_reason"] == "RND-612"
    wants(consortium, "resume", "site-3")
    workers["site-3"] = consortium.join("site-3", PLAN, name="site-3-back")
    until("it is back", lambda: consortium.attested(PLAN) == set(SITES), _START_S)


def test_a_stop_ends_training_at_every_site(consortium: Consortium, workers: dict[str, Running]) -> None:
    enclaves = [enclave_of(worker) for worker in workers.values()]
    trainers = [trainer for enclave in enclaves for trainer in children_of(enclave)]
    assert consortium.order("stop", PLAN, "site-1").code == 0
    until("no trainer runs", lambda: not any(map(runs, trainers)), 10)
    assert [worker.ended(20) for worker in workers.values()] == [0, 0, 0]
    assert all("The run is over: stopped" in worker.said for worker in workers.values())
    assert not any(map(runs, enclaves))
    refused = consortium.order("pause", PLAN, "site-1")
    assert refused.error["code"] == "RUN-706"
