"""A member keeps keys, grants them, takes grants back and retires keys: the commands, on real stores."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from broker.holdings import open_key
from broker.records import KeyKind
from broker.store import STORE_KEY, KeyStore
from console import keyfiles
from console.commands.granting import add_commands
from console.documents import present
from console.key_brokerage import import_model_key
from console.ordering import Desk
from tests.console.conftest import Answer, Cloister
from tests.evil_host.hosts import finished, joined
from tests.keys.conftest import world as world
from tests.world import MemoryStore, Net, World
from trusted.blob import ContentKey
from trusted.documents.charter import Charter
from trusted.errors import DocumentError, KeyReleaseError, Reason
from trusted.keys.binding import model_key_id

MODEL, DATASET = b"\x5d" * 32, b"\xda" * 32
KEY = ContentKey(b"\x42" * 32)
Command = Callable[..., Answer]


@dataclass(frozen=True)
class Papers:
    """A folder with a signed charter and plan, and the members' signing keys."""

    folder: Path

    def key(self, member: str) -> Path:
        return self.folder / f"{member}.pem"

    @property
    def options(self) -> list[object]:
        return ["--charter", self.folder / "charter.dsse.json", "--plan", self.folder / "plan.dsse.json"]


def written(world: World, folder: Path) -> Papers:
    (folder / "charter.dsse.json").write_bytes(world.charter.envelope)
    (folder / "plan.dsse.json").write_bytes(world.plan.envelope)
    papers = Papers(folder)
    for member in world.members:
        keyfiles.write_ed25519(papers.key(member), world.signing[member], None, force=False)
    return papers


@pytest.fixture(scope="module")
def papers(tmp_path_factory, world) -> Papers:
    """Of a federation whose charter admits recipients' runtimes, and whose plan has site-1 as its recipient."""
    return written(world, tmp_path_factory.mktemp("papers"))


@pytest.fixture
def store(tmp_path: Path, cloister: Cloister) -> Path:
    """The store of site-1, with a model's key and a data set's."""
    return filled(tmp_path / "keys", "site-1", cloister)


def filled(folder: Path, member: str, cloister: Cloister) -> Path:
    assert cloister("keys", "init", "--keys", folder, "--member", member).code == 0
    with KeyStore.open(folder) as made:
        made.add(MODEL, KEY, KeyKind.MODEL, "the model of visits", present())
        made.add(DATASET, KEY, KeyKind.DATASET, "visits.csv", present())
    return folder


@pytest.fixture
def model(papers: Papers, store: Path, cloister: Cloister) -> Command:
    """`cloister model …` of site-1."""

    def run(verb: str, *arguments: object, by: str = "site-1", plan: bool = True, json: bool = True) -> Answer:
        options = papers.options if plan else papers.options[:2]
        return cloister("model", verb, *arguments, "--keys", store, "--key", papers.key(by), *options, json=json)

    return run


def test_a_grant_asks_for_hardware_and_one_release_unless_it_says_otherwise(model, store):
    terms = model("grant", MODEL.hex(), "--yes").data["terms"]
    assert (terms["assurance"], terms["releases"], terms["role"]) == ("hardware", 1, "recipient")
    assert (terms["member"], terms["holder"], terms["measurements"]) == ("site-1", "site-1", None)
    with KeyStore.open(store) as kept:
        assert [grant.remaining for grant in kept.grants()] == [1]


def test_what_is_signed_is_said_in_words_first(model):
    said = model("grant", MODEL.hex()[:6], "--yes", "--assurance", "none", "--releases", 3, json=False).stdout
    assert "site-1 lets the attested runtime of site-1 have the key of the model of visits." in said
    assert "3 time(s)" in said
    assert "NO HARDWARE PROTECTION" in said
    assert "NOBODY CAN USE THIS" not in said


def test_a_grant_that_asks_for_more_than_the_charters_roots_can_give_says_so(model):
    assert "NOBODY CAN USE THIS" in model("grant", MODEL.hex(), "--yes", json=False).stdout


def test_what_a_runtime_may_answer_is_said_and_signed(model):
    said = model("grant", MODEL.hex(), "--yes", "--scoring", "512:60:1000", json=False).stdout
    assert "512 rows a request, 60 requests a minute" in said
    terms = model("grant", MODEL.hex(), "--yes", "--scoring", "8:9:10").data["terms"]
    assert terms["scoring"] == {"rows_per_request": 8, "requests_per_minute": 9, "requests_total": 10}
    assert "scoring" not in model("grant", MODEL.hex(), "--yes").data["terms"]


@pytest.mark.parametrize("text", ["8:9", "8:9:x", "0:1:1", "8:9:10:11"])
def test_limits_that_are_none_are_not_signed(model, store, text):
    assert model("grant", MODEL.hex(), "--yes", "--scoring", text).code in {1, 3}
    with KeyStore.open(store) as kept:
        assert not kept.grants()


def test_nothing_is_granted_where_nobody_can_be_asked(model, store):
    assert model("grant", MODEL.hex()).code == 1
    with KeyStore.open(store) as kept:
        assert not kept.grants()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["00" * 32], "no model key"),
        (["5d5d5"], "too short"),
        ([DATASET.hex()], "no model key"),
        ([MODEL.hex(), "--measurement", "ab"], "48 bytes"),
        ([MODEL.hex(), "--holder", "nobody"], "no member"),
    ],
)
def test_a_grant_that_cannot_be_is_refused_with_what_to_do(model, arguments, words):
    error = model("grant", *arguments, "--yes").error
    assert words in error["message"]
    assert error["hint"]


def test_another_member_grants_and_revokes_nothing_here(model, store):
    assert "of one member" in model("grant", MODEL.hex(), "--yes", by="site-2").error["hint"]
    granted = model("grant", MODEL.hex(), "--yes").data["grant"]
    assert "of one member" in model("revoke", granted, by="site-2", plan=False).error["hint"]
    with KeyStore.open(store) as kept:
        assert [grant.revoked for grant in kept.grants()] == [False]


def test_a_member_that_is_no_recipient_grants_no_model(papers, cloister, tmp_path):
    folder = filled(tmp_path / "keys", "site-2", cloister)
    key = ["--key", papers.key("site-2"), "--yes"]
    answer = cloister("model", "grant", MODEL.hex(), "--keys", folder, *papers.options, *key)
    assert (answer.code, answer.error["code"]) == (3, "KEY-1109")


def test_a_charter_that_admits_no_runtime_grants_no_model(software_root, chip, store, cloister, tmp_path):
    papers = written(World(software_root, chip), tmp_path)
    key = ["--key", papers.key("site-1"), "--yes"]
    error = cloister("model", "grant", MODEL.hex(), "--keys", store, *papers.options, *key).error
    assert "no recipient's runtime" in error["message"]


def test_a_revoked_grant_is_shown_and_revoking_again_changes_nothing(model, store, cloister):
    granted = model("grant", MODEL.hex(), "--yes").data["grant"]
    for _ in range(2):
        assert model("revoke", granted[:8], plan=False).data["remaining"] == 1
    (listed,) = cloister("model", "list", "--keys", store).data["grants"]
    assert (listed["grant"], listed["state"]) == (granted, "revoked")
    events = [line["event"] for line in cloister("keys", "log", "--keys", store).data["log"]]
    assert events == ["added", "added", "granted", "revoked"]


def test_a_retired_key_is_destroyed_and_the_log_says_so_signed(model, store, cloister):
    model("grant", MODEL.hex(), "--yes")
    assert model("retire", MODEL.hex(), "--yes", plan=False).data["key"] == MODEL.hex()
    keys = {key["id"]: key["retired"] for key in cloister("keys", "list", "--keys", store).data["keys"]}
    assert keys == {MODEL.hex(): True, DATASET.hex(): False}
    last = cloister("keys", "log", "--keys", store).data["log"][-1]
    assert (last["event"], json.loads(last["signed"])["payloadType"]) == (
        "retired",
        "application/vnd.cloister.withdrawal.v1+json",
    )
    private = keyfiles.load_sealing_key(store / STORE_KEY, None)
    with KeyStore.open(store) as kept, pytest.raises(KeyReleaseError) as caught:
        open_key(kept.files, MODEL, kept.kept_keys()[0].commitment, private)
    assert caught.value.reason is Reason.KEY_STORE
    assert model("grant", MODEL.hex(), "--yes").error["code"] == "KEY-1102"


def test_the_key_of_a_data_set_is_granted_to_the_members_own_worker(papers, store):
    app = typer.Typer()
    add_commands(app, "data", "dataset")
    options = ["--keys", store, "--key", papers.key("site-1"), *papers.options, "--yes", "--json"]
    answer = CliRunner().invoke(app, [str(text) for text in ("grant", DATASET.hex(), *options)])
    terms = json.loads(answer.stdout)["data"]["terms"]
    assert (terms["role"], terms["holder"], terms["key"]) == ("worker", "site-1", DATASET.hex())


def test_the_key_of_a_released_model_comes_from_the_release_that_the_host_holds(world, cloister, tmp_path):
    """A whole run in memory; what is imported is the key that opens its model."""
    host = joined(Net(world))
    verified = finished(host)
    desk = Desk(world.charter, world.plan, HostOf(host.store))
    with KeyStore.open(filled(tmp_path / "keys", "site-1", cloister)) as kept:
        key = import_model_key(kept, desk, world.sealing["site-1"])
        assert (key.kind, key.id) == (KeyKind.MODEL, model_key_id(verified.release))
        private = keyfiles.load_sealing_key(kept.folder / STORE_KEY, None)
        opened = open_key(kept.files, key.id, key.commitment, private)
        assert opened == verified.open_key("site-1", world.sealing["site-1"])
        assert import_model_key(kept, desk, world.sealing["site-1"]) == key
    with KeyStore.open(filled(tmp_path / "others", "site-2", cloister)) as kept:
        with pytest.raises(DocumentError) as caught:
            import_model_key(kept, desk, world.sealing["site-2"])
        assert caught.value.reason is Reason.UNKNOWN_MEMBER


class HostOf:
    """What a host serves of its blobs, without the wire between."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def get_blob(self, plan: bytes, blob: bytes) -> list[bytes]:
        return [self._store.blobs[blob]]


def test_a_store_is_never_replaced(store, cloister):
    again = cloister("keys", "init", "--keys", store, "--member", "site-1")
    assert "already" in again.error["message"]
    with KeyStore.open(store) as kept:
        assert len(kept.kept_keys()) == 2


def test_a_charter_without_recipients_keeps_its_bytes(software_root, chip):
    """The role is optional: a charter that does not speak of it is the same document as before."""
    payload = World(software_root, chip).charter.document.encode()
    assert Charter.parse(payload).recipient is None
    assert b'"recipient"' not in payload


def test_a_charter_with_recipients_says_so(consortium, cloister):
    options = ["--profile", "development", "--software-root", "ab" * 32, "--recipient-measurement", "c3" * 48]
    made = cloister("charter", "new", *consortium.charter_options, *options, "--out", consortium / "2.json", json=False)
    assert f"The recipient may run {'c3' * 48} on snp." in made.stdout


@pytest.mark.slow
def test_a_broker_serves_and_ends_and_its_passphrase_is_asked_for(cloister, tmp_path):
    """As its user starts it, in a process of its own."""
    secret, folder = tmp_path / "pass.txt", tmp_path / "locked"
    secret.write_text("correct horse\n")
    assert cloister("keys", "init", "--keys", folder, "--member", "site-1", "--passphrase-file", secret).code == 0
    assert b"ENCRYPTED" in (folder / STORE_KEY).read_bytes()
    serve = [sys.executable, "-c", "from console.main import main; main()", "keys", "serve", "--keys", folder]
    serve += ["--listen", "127.0.0.1:0"]
    root = Path(__file__).parents[2]
    locked = subprocess.run(serve, cwd=root, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert (locked.returncode, "passphrase" in locked.stderr) == (1, True)
    serving = subprocess.Popen([*serve, "--passphrase-file", secret], cwd=root, stdout=subprocess.PIPE, text=True)
    try:
        assert re.fullmatch(r"Serving keys on 127\.0\.0\.1:[1-9][0-9]*\.\n", serving.stdout.readline())
        os.kill(serving.pid, signal.SIGTERM)
        assert "Stopped." in serving.communicate(timeout=60)[0]
        assert serving.returncode == 0
    finally:
        serving.kill()
        serving.wait()
