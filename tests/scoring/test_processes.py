"""A real runtime in an enclave of the software TEE, with a real broker, asked by the commands that people use."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from broker.records import Event, KeyKind
from broker.store import KeyStore
from console import keyfiles
from console.enclaves import Papers, Stage, start_in_software
from console.main import build_app
from console.ordering import Desk
from console.output import Report, UserError
from console.running import entries
from console.serving import Service, ServiceFiles, serve_model, service_surroundings, stage_service
from console.tee_options import Tee
from coordinator.enclave.release import History, publish, seal_release
from softtee.digests import DigestCache
from softtee.enclave import Enclave
from softtee.measure import default_state, measure
from tests.broker.test_service import serving
from tests.broker.test_store import withdrawal
from tests.canary.needles import Pattern, number_needle, secret_needle, vector_needle
from tests.canary.observing import files_below, names_below
from tests.canary.relay import Relay, dial_tcp
from tests.canary.search import Search, names
from tests.keys.holdings import grant_of, signed_grant
from tests.ports import free_port
from tests.scoring.example import DATA, EXAMPLE, plain_scores
from tests.world import MEMBERS, NOW, MemoryStore, World, policy
from trusted.apps.bundle import build_bundle, bundle_digest
from trusted.blob import ContentKey
from trusted.documents.grant import Holder, VerifiedGrant, Withdrawn, commitment, verify_grant
from trusted.documents.layout import Layout
from trusted.documents.schema import Validity
from trusted.documents.terms import App, DatasetContract, Deadlines
from trusted.documents.terms.scoring import ScoringLimits
from trusted.errors import Reason, RunError
from trusted.evidence.boot import Role
from trusted.hpke import SealingKey
from trusted.keys.binding import model_key_id
from trusted.release import release_name, verify_release
from trusted.scoring.terms import Declaration

pytestmark = pytest.mark.slow

RECIPIENT = MEMBERS[0]
INPUTS = (
    *("xage", "female", "educdec", "income", "num", "child", "mhi", "disea", "physlm", "xghindx"),
    *("hlthg", "hlthf", "hlthp", "coins", "idp", "lpi", "fmde", "tookphys"),
)
ROWS = 7
_START_S = 120.0
_REATTEST_S = 2  # so soon does a runtime notice that its grant was taken back


class StoredBlobs:
    """What a host serves of a finished run."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def get_blob(self, plan: bytes, blob: bytes) -> Iterator[memoryview]:
        if blob not in self._store.blobs:
            raise RunError(Reason.BLOB_UNKNOWN, "blob: not here")
        yield memoryview(self._store.blobs[blob])


@dataclass
class Released:
    """A run that is over: its documents, what its host has, and what its recipient alone can open."""

    folder: Path
    world: World
    blobs: MemoryStore
    model: np.ndarray
    rows: np.ndarray
    scores: np.ndarray
    key: ContentKey
    key_id: bytes

    @property
    def papers(self) -> list[object]:
        return ["--charter", self.folder / "charter.dsse.json", "--plan", self.folder / "plan.dsse.json"]

    @property
    def asker(self) -> list[object]:
        return ["--member", RECIPIENT, "--key", self.folder / "signing-key.pem"]

    def grant(self, store: KeyStore, **changes: object) -> VerifiedGrant:
        """The key in ``store``, and a grant of it to the recipient's own runtime."""
        terms = {"role": Holder.RECIPIENT, "key": self.key_id, "releases": 2}
        terms["commitment"] = commitment(self.key_id, self.key.secret)
        document = grant_of(self.world, self.key, **(terms | changes))
        verified = verify_grant(signed_grant(self.world, document), self.world.charter)
        store.add(self.key_id, self.key, KeyKind.MODEL, "visits", NOW)
        store.add_grant(verified, self.world.charter, self.world.plan, NOW)
        return verified


@pytest.fixture(scope="module")
def released(software_root, chip, tmp_path_factory) -> Released:
    """The example's model, as a run would release it, and a site's first rows."""
    folder = tmp_path_factory.mktemp("serving")
    rows = first_rows()
    layout, model, scores = plain_scores(declared(), rows)
    bundle = build_bundle(EXAMPLE)
    (folder / "plan.fab").write_bytes(bundle)
    measurement = measure(Role.RECIPIENT, cache=DigestCache(default_state())).value
    world = World(
        software_root, chip, plan_changes=plan_of(layout, bundle), charter_changes={"recipient": policy(measurement)}
    )
    blobs = MemoryStore()
    identity = world.identity("aggregator")
    history = History([(1, MEMBERS)])
    release = seal_release(world.federation, identity, blobs, model=model, history=history)
    publish(release, identity, blobs)
    verified = verify_release(blobs.blobs[release_name(world.plan.digest)], world.federation, NOW)
    key = verified.open_key(RECIPIENT, world.sealing[RECIPIENT])
    write_papers(folder, world)
    return Released(folder, world, blobs, model, rows, scores, key, model_key_id(release))


def declared() -> Declaration:
    """What the example declares."""
    return Declaration(INPUTS, ("risk",), None)


def first_rows() -> np.ndarray:
    """Real rows, moved a little by secret amounts: they stand in no file of this repository."""
    with DATA.open(newline="") as lines:
        values = np.array([[float(row[name]) for name in INPUTS] for row in list(csv.DictReader(lines))[:ROWS]])
    return values + np.random.default_rng().uniform(0.001, 0.1, values.shape)


def plan_of(layout: Layout, bundle: bytes) -> dict[str, object]:
    app = {"kind": "flower", "bundle_sha256": bundle_digest(bundle).hex(), "config": {}}
    return {
        "app": App.read(app),
        "layout": layout,
        "dataset": DatasetContract(1, (*INPUTS, "mdvis")),
        "deadlines": Deadlines(round_s=600, lease_s=60, reattest_s=_REATTEST_S),
    }


def write_papers(folder: Path, world: World) -> None:
    membership = world.membership(RECIPIENT)
    (folder / "site").mkdir()
    (folder / "charter.dsse.json").write_bytes(world.charter.envelope)
    (folder / "plan.dsse.json").write_bytes(world.plan.envelope)
    (folder / "site" / keyfiles.CREDENTIAL).write_bytes(membership.credential)
    keyfiles.write_ed25519(folder / "site" / keyfiles.WORKER_KEY, membership.worker_key, None, force=False)
    keyfiles.write_ed25519(folder / "signing-key.pem", world.signing[RECIPIENT], None, force=False)
    world.chip.save(folder / "chip")


@dataclass
class Running:
    """A runtime that serves, and what its operator sees."""

    enclave: Enclave
    address: str
    log: Path
    store: KeyStore
    grant: VerifiedGrant

    def lines(self) -> list[dict[str, object]]:
        return [dict(entry) for entry in entries(self.log.read_bytes())]

    def until(self, event: str, timeout_s: float = _START_S) -> dict[str, object]:
        """Wait for a line of the log; what it says."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = [line for line in self.lines() if line["event"] == event]
            if found:
                return found[0]
            if self.enclave._process.poll() is not None:
                break
            time.sleep(0.1)
        raise AssertionError(f"{event} was not said: {self.log.read_text()}")


@dataclass
class Operator:
    """Who runs a runtime: a broker that is up, and all that `cloister model serve` is given."""

    store: KeyStore
    grant: VerifiedGrant
    desk: Desk
    files: ServiceFiles
    service: Service


@pytest.fixture
def operator(released, tmp_path) -> Iterator[Callable[..., Operator]]:
    """Start a broker with a grant; it ends with the test."""
    with ExitStack() as stack:

        def ready(limits: ScoringLimits = ScoringLimits(), **grant: object) -> Operator:  # noqa: B008
            secret = SealingKey.generate()
            store = stack.enter_context(KeyStore.create(tmp_path / "store", member=RECIPIENT, public=secret.public))
            made = released.grant(store, **grant)
            broker = stack.enter_context(serving(store, secret))
            (tmp_path / "broker-ca.pem").write_bytes(broker.ca_pem or b"")
            desk = Desk(released.world.charter, released.world.plan, StoredBlobs(released.blobs))  # type: ignore[arg-type]
            (tmp_path / "logs").mkdir()
            files = ServiceFiles(released.folder / "site", released.folder / "plan.fab", tmp_path / "logs/serving.log")
            listen = f"http://127.0.0.1:{free_port()}"
            service = Service(RECIPIENT, broker.target, tmp_path / "broker-ca.pem", listen, limits, 30)
            return Operator(store, made, desk, files, service)

        yield ready


@pytest.fixture
def serve(released, operator, tmp_path) -> Iterator[Callable[..., Running]]:
    """Start a runtime as `cloister model serve` does, and look at it from outside; it ends with the test."""
    with ExitStack() as stack:

        def start(*limits: ScoringLimits, **grant: object) -> Running:
            given = operator(*limits, **grant)
            stage = stack.enter_context(Stage(tmp_path / "stage"))
            options = stage_service(stage, given.desk, given.files, given.service)
            around = service_surroundings(released.folder / "chip", given.files.log, options, given.service.port)
            papers = Papers(given.desk.charter, given.desk.plan)
            enclave = start_in_software(Role.RECIPIENT, papers, options, around)
            stack.callback(enclave.terminate)
            return Running(enclave, given.service.listen, given.files.log, given.store, given.grant)

        yield start


def cloister(*arguments: object) -> tuple[int, dict[str, object]]:
    """One command of the console, with its exit code and its JSON."""
    answer = CliRunner().invoke(build_app(), [*map(str, arguments), "--json"])
    assert answer.stdout, (answer.stderr, answer.exception)
    return answer.exit_code, json.loads(answer.stdout)


def write_rows(path: Path, rows: np.ndarray) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["who", *INPUTS])
        writer.writerows([f"person-{number}", *map(repr, row)] for number, row in enumerate(rows.tolist()))
    return path


def score(released: Released, address: str, out: Path, *more: object) -> tuple[int, dict[str, object]]:
    rows = write_rows(out.with_suffix(".in.csv"), released.rows)
    asked = ["--service", address, "--input", rows, "--output", out, "--keep", "who"]
    return cloister("model", "score", *released.papers, *asked, *released.asker, *more)


def test_no_model_row_or_score_stands_on_disk_in_a_log_or_on_the_wire(released, serve, tmp_path):
    """And the scores are those of the model in plain Python."""
    running = serve()
    running.until("serving")
    out = tmp_path / "client" / "scores.csv"
    out.parent.mkdir()
    with Relay(dial_tcp(int(running.address.rpartition(":")[2]))) as relay:
        code, answer = score(released, f"http://127.0.0.1:{relay.listen_tcp()}", out)
        assert (code, answer["status"]) == (0, "ok"), answer
        passed = relay.recorded()
    assert (answer["data"]["protection"], answer["data"]["rows"]) == ("NO HARDWARE PROTECTION", ROWS)
    with out.open(newline="") as file:
        written = list(csv.DictReader(file))
    assert [row["who"] for row in written] == [f"person-{number}" for number in range(ROWS)]
    np.testing.assert_array_equal([float(row["risk"]) for row in written], released.scores[:, 0])
    assert running.until("scored")["rows"] == ROWS
    places = {
        "wire": passed,
        "runtime": {**files_below(tmp_path / "stage"), **files_below(running.log.parent)},
        "names": names_below(tmp_path),
        "broker": files_below(tmp_path / "store"),
        "host": {name.hex(): blob for name, blob in released.blobs.blobs.items()},
        "launcher": files_below(default_state() / "scratch"),
    }
    assert sum(map(len, passed.values())) > 8192
    search = Search(needles(released))
    for place, content in places.items():
        assert names(search.find(content)) == set(), place
    assert names(search.find({"client": out.read_bytes(), "rows": out.with_suffix(".in.csv").read_bytes()}))
    assert names(search.find({"model": released.model.tobytes()}))


def needles(released: Released) -> Iterator[Pattern]:
    for start in range(0, 400, 4):
        yield from vector_needle(f"model from {start}", released.model[start : start + 4].tolist())
    yield from secret_needle("content key", released.key.secret)
    for number, row in enumerate(released.rows):
        yield from number_needle(f"row {number}", float(row[0]))
    scores = released.scores[:, 0]
    for number in range(ROWS - 1):
        yield Pattern(f"score {number}", "text", repr(float(scores[number])).encode())
        yield Pattern(f"scores {number}, {number + 1}", "float64", scores[number : number + 2].tobytes())


def test_a_revoked_grant_wipes_the_model_of_a_running_service(released, serve, tmp_path):
    running = serve()
    running.until("serving")
    assert running.until("grant-renewed")["requests"] == 0
    assert score(released, running.address, tmp_path / "before.csv")[0] == 0
    running.store.withdraw(withdrawal(released.world, Withdrawn.GRANT, running.grant.digest), NOW)
    assert running.until("model-wiped")["reason"] == Reason.GRANT_REVOKED.code
    code, answer = score(released, running.address, tmp_path / "after.csv")
    assert code != 0
    assert Reason.GRANT_REVOKED.name in answer["error"]["message"]
    assert not (tmp_path / "after.csv").exists()
    released_once = [entry.event for entry in running.store.log()].count(Event.RELEASED)
    assert (released_once, running.store.grants()[0].remaining) == (1, 1)
    assert running.enclave.terminate() == 0
    assert [line["event"] for line in running.lines()][-1] == "service-ended"


def test_the_grants_limits_hold_where_they_are_stricter(released, serve, tmp_path):
    running = serve(ScoringLimits(4, 60, 100), scoring=ScoringLimits(100, 60, 3))
    running.until("serving")
    code, answer = cloister("model", "attest", running.address, *released.papers)
    assert (code, answer["data"]["verdict"]) == (0, "affirming")
    code, answer_to_other = score(released, running.address, tmp_path / "s.csv", "--model-sha256", "00" * 32)
    assert (code, answer_to_other["error"]["code"]) == (3, Reason.SCORING_RELEASE.code)
    limits = {"rows_per_request": 4, "requests_per_minute": 60, "requests_total": 3}
    assert answer["data"]["service"]["limits"] == limits
    assert answer["data"]["binding_not_checked"] == []
    assert score(released, running.address, tmp_path / "first.csv")[0] == 0  # seven rows, in two requests
    code, answer = score(released, running.address, tmp_path / "second.csv")
    assert answer["error"]["code"] == Reason.SCORING_SPENT.code
    assert running.until("request-refused")["requests"] == 3


def test_a_grant_that_has_ended_gives_no_key_and_the_operator_is_told(released, operator, capsys):
    given = operator(validity=Validity(NOW - timedelta(days=2), NOW - timedelta(days=1)))
    chip = released.folder / "chip"
    status = serve_model(given.desk, given.files, given.service, tee=Tee.SOFTWARE, chip=chip, report=Report(False))
    said = capsys.readouterr().out
    assert status == 1
    assert "NO HARDWARE PROTECTION" in said
    assert f"Refused: {Reason.PEER_REFUSED.code}" in said
    assert Reason.GRANT_EXPIRED.code in said
    assert "Serves on" not in said


def test_a_port_beyond_this_machine_needs_a_certificate(released, operator):
    given = operator()
    open_service = replace(given.service, listen="0.0.0.0:8446")
    with pytest.raises(UserError, match="needs a certificate"):
        serve_model(given.desk, given.files, open_service, tee=Tee.SOFTWARE, chip=None, report=Report(True))
