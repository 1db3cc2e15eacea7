"""What a host serves to sites, and what a site takes from a host that lies: real gRPC on both sides."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner

from console.main import build_app
from coordinator.host.tls import server_identity
from protos.v1 import cloister_pb2, cloister_pb2_grpc
from softtee.certificates import revocation_list
from softtee.chip import Chip, SoftwareRoot
from tests.attestation.vectors import folder
from tests.host.conftest import RunningHost
from tests.world import NOW, World
from trusted.attestation.collateral import EndorsementKind, recognise
from trusted.attestation.roots import VENDOR_ROOTS, TrustRoot
from trusted.errors import ProtocolError, Reason
from trusted.evidence.collateral_offer import take_offer
from trusted.evidence.collateral_store import CollateralStore
from trusted.wire import sha256
from worker.collateral import HostCollateral, fetch_files, fetch_offer
from worker.grpc_channel import HostAddress

INTEL = (*VENDOR_ROOTS["TDX"], *VENDOR_ROOTS["SGX"])
PHALA_TIME = datetime.fromisoformat("2025-07-01T00:00:00+00:00")


@pytest.fixture
def roots(software_root: SoftwareRoot) -> tuple[TrustRoot, ...]:
    return (software_root.trust_root,)


@pytest.fixture
def ark(chip: Chip) -> bytes:
    return chip.attest(report_data=bytes(64), measurement=bytes(48), host_data=bytes(32)).certificates[-1]


@pytest.fixture
def a_list(software_root: SoftwareRoot) -> Callable[[int], bytes]:
    """List ``number``, the same bytes each time: a signature of it is drawn anew."""
    return cache(lambda number: revocation_list(software_root.ark, now=NOW, number=number))


@pytest.fixture
def site(tmp_path: Path) -> CollateralStore:
    return CollateralStore(tmp_path / "site")


@pytest.fixture
def kept(tmp_path: Path, a_list: Callable[[int], bytes], ark: bytes) -> Path:
    """The coordinator's store: list 5, and AMD's root."""
    store = CollateralStore(tmp_path / "kept")
    for content in (a_list(5), ark):
        store.add(content, recognise(content))
    return tmp_path / "kept"


@pytest.fixture
def serving(make_host: Callable[..., RunningHost], kept: Path) -> RunningHost:
    return make_host(collateral_store=kept)


@pytest.fixture
def channel(serving: RunningHost) -> Iterator[grpc.Channel]:
    with HostAddress(serving.target, serving.ca).open() as channel:
        yield channel


def number_in(store: CollateralStore) -> list[int | None]:
    return [entry.endorsement.number for entry in store.entries()]


def test_a_site_takes_the_list_that_it_lacks_and_then_nothing_more(
    channel: grpc.Channel, site: CollateralStore, roots: tuple[TrustRoot, ...], a_list: Callable[[int], bytes]
) -> None:
    first = fetch_offer(channel, site, roots, NOW)
    assert ([said.name for said in first.taken], first.refused) == (["ARK-Genoa"], ())
    assert site.find(EndorsementKind.CRL, "ARK-Genoa") == a_list(5)
    again = fetch_offer(channel, site, roots, NOW)
    assert (again.taken, again.refused) == ((), ())


@pytest.mark.parametrize(("has", "then", "refused"), [(4, 5, []), (6, 6, [Reason.COLLATERAL_ROLLBACK])])
def test_a_site_goes_forward_and_never_back(
    channel: grpc.Channel,
    site: CollateralStore,
    roots: tuple[TrustRoot, ...],
    a_list: Callable[[int], bytes],
    has: int,
    then: int,
    refused: list[Reason],
) -> None:
    site.add(a_list(has), recognise(a_list(has)))
    offer = fetch_offer(channel, site, roots, NOW)
    assert number_in(site) == [then]
    assert [error.reason for error in offer.refused] == refused


def test_a_host_without_a_store_offers_nothing(host: RunningHost) -> None:
    with HostAddress(host.target, host.ca).open() as channel:
        assert fetch_files(channel, ()) == ()


def test_only_kinds_that_order_themselves_are_served(serving: RunningHost, channel: grpc.Channel, kept: Path) -> None:
    before = fetch_files(channel, ())
    store = CollateralStore(kept)
    for content in (
        b'{"keys": [{"kid": "1", "kty": "RSA"}]}',
        (folder("nvidia", "hopper_535_with_rims") / "vbios_rim_match.swidtag").read_bytes(),
    ):
        store.add(content, recognise(content))
    assert fetch_files(channel, ()) == before


@pytest.mark.parametrize("name", [b"", b"\0" * 32, b"../../etc/passwd", b"index.json", b"x" * 5000])
def test_a_peer_cannot_name_a_path(channel: grpc.Channel, name: bytes) -> None:
    stub: Any = cloister_pb2_grpc.CollateralStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Get(cloister_pb2.CollateralName(sha256=name), timeout=10)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_file_that_was_swapped_for_a_link_or_changed_is_not_served(channel: grpc.Channel, kept: Path) -> None:
    secret = kept.parent / "secret"
    secret.write_bytes(b"a key")
    for entry in CollateralStore(kept).entries():
        path = kept / entry.file
        path.unlink()
        path.symlink_to(secret)
    for _ in range(2):
        with pytest.raises(ProtocolError) as caught:
            fetch_files(channel, ())
        assert caught.value.reason is Reason.BLOB_UNKNOWN
        for entry in CollateralStore(kept).entries():
            (kept / entry.file).unlink()
            (kept / entry.file).write_bytes(b"something else")


@pytest.mark.parametrize("index", [b"{", b'{"entries":[{"kind":"crl","name":"x","file":"../secret"}],"version":1}'])
def test_a_store_that_is_damaged_is_said_and_not_served(channel: grpc.Channel, kept: Path, index: bytes) -> None:
    (kept / "index.json").write_bytes(index)
    with pytest.raises(ProtocolError) as caught:
        fetch_files(channel, ())
    assert caught.value.reason is Reason.BLOB_UNKNOWN


@dataclass
class EvilHost:
    """A host that serves what it is told, under whatever names."""

    files: list[tuple[bytes, bytes]] = field(default_factory=list)
    asked: int = 0

    def List(self, request: Any, context: Any) -> Any:
        return cloister_pb2.CollateralNames(files=[cloister_pb2.CollateralName(sha256=name) for name, _ in self.files])

    def Get(self, request: Any, context: Any) -> Any:
        self.asked += 1
        return cloister_pb2.CollateralFile(content=dict(self.files)[request.sha256])

    def offer(self, *contents: bytes) -> None:
        self.files = [(sha256(content), content) for content in contents]


@contextmanager
def reached(evil: EvilHost, tmp_path: Path) -> Iterator[grpc.Channel]:
    identity = server_identity(tmp_path / "evil-tls", ("localhost",), datetime.now().astimezone())
    server = grpc.server(futures.ThreadPoolExecutor(2))
    cloister_pb2_grpc.add_CollateralServicer_to_server(evil, server)
    credentials = grpc.ssl_server_credentials([(identity.key_pem, identity.chain_pem)])
    port = server.add_secure_port("localhost:0", credentials)
    server.start()
    ca = (tmp_path / "evil-tls" / "ca.pem").read_bytes()
    try:
        with HostAddress(f"localhost:{port}", ca).open() as channel:
            yield channel
    finally:
        server.stop(None).wait()


@pytest.fixture
def evil(tmp_path: Path) -> Iterator[tuple[EvilHost, grpc.Channel]]:
    host = EvilHost()
    with reached(host, tmp_path) as channel:
        yield host, channel


def forged(now: datetime) -> bytes:
    """A list that calls itself the newest there will ever be, under another root of the same name."""
    return revocation_list(SoftwareRoot.create(now=now, product="Genoa").ark, now=now, number=1 << 100)


def test_damaged_forged_older_and_foreign_files_change_nothing_and_the_good_one_is_taken(
    evil: tuple[EvilHost, grpc.Channel],
    site: CollateralStore,
    roots: tuple[TrustRoot, ...],
    a_list: Callable[[int], bytes],
    ark: bytes,
) -> None:
    host, channel = evil
    site.add(a_list(4), recognise(a_list(4)))
    good, flipped = a_list(5), bytearray(a_list(9))
    flipped[-1] ^= 1
    bad = (good[:-1], bytes(flipped), a_list(3), forged(NOW), b"{}", b"", b'{"keys": [{"kid": "1"}]}')
    host.offer(ark, *bad)
    offer = fetch_offer(channel, site, roots, NOW)
    assert (len(offer.refused), offer.taken, number_in(site)) == (len(bad), (), [4])
    host.offer(*bad, good, ark)
    assert len(fetch_offer(channel, site, roots, NOW).taken) == 1
    assert number_in(site) == [5]


def test_a_list_without_its_root_and_one_of_tomorrow_are_refused(
    site: CollateralStore, roots: tuple[TrustRoot, ...], a_list: Callable[[int], bytes], ark: bytes
) -> None:
    (alone,) = take_offer(site, [a_list(5)], roots, NOW).refused
    assert alone.reason is Reason.CHAIN
    (unpinned,) = take_offer(site, [a_list(5), ark], INTEL, NOW).refused[:1]
    assert unpinned.reason is Reason.CHAIN
    (early,) = take_offer(site, [a_list(5), ark], roots, NOW - timedelta(days=30)).refused
    assert early.reason is Reason.CERT_NOT_YET_VALID
    assert site.entries() == ()


@pytest.mark.parametrize(
    "files",
    [
        [(sha256(b"a"), b"b")],
        [(sha256(bytes((256 << 10) + 1)), bytes((256 << 10) + 1))],
        [(number.to_bytes(32, "big"), b"") for number in range(257)],
        [(sha256(bytes(5 << 20)), bytes(5 << 20))],
    ],
    ids=["another file", "a byte too long", "a flood of names", "more than a message"],
)
def test_a_host_that_breaks_a_bound_is_not_listened_to(
    evil: tuple[EvilHost, grpc.Channel],
    site: CollateralStore,
    roots: tuple[TrustRoot, ...],
    files: list[tuple[bytes, bytes]],
) -> None:
    host, channel = evil
    host.files = files
    with pytest.raises(ProtocolError):
        fetch_offer(channel, site, roots, NOW)
    assert (site.entries(), host.asked <= 1) == ((), True)


def test_whatever_a_host_does_the_worker_goes_on_and_says_one_line(
    evil: tuple[EvilHost, grpc.Channel],
    site: CollateralStore,
    tmp_path: Path,
    roots: tuple[TrustRoot, ...],
    a_list: Callable[[int], bytes],
    ark: bytes,
) -> None:
    host, channel = evil
    said: list[tuple[str, dict[str, object]]] = []

    def refreshed(*files: tuple[bytes, bytes]) -> tuple[str, dict[str, object]]:
        host.files = list(files)
        collateral = HostCollateral(
            lambda: channel, str(tmp_path / "site"), roots, lambda event, **more: said.append((event, more))
        )
        collateral.refresh()
        collateral.refresh()  # not again within the hour
        (line,) = said
        said.clear()
        return line

    event, fields = refreshed((b"x", b"y"))
    assert (event, fields["reason"]) == ("collateral-refused", Reason.MALFORMED.code)
    broken = a_list(5)[:-1]
    event, fields = refreshed((sha256(broken), broken))
    assert (event, fields["taken"], fields["refused"]) == ("collateral", 0, 1)
    event, fields = refreshed((sha256(a_list(5)), a_list(5)), (sha256(ark), ark))
    assert (event, fields["taken"], number_in(site)) == ("collateral", 1, [5])
    (tmp_path / "site" / "index.json").write_bytes(b"?")
    assert refreshed((sha256(ark), ark))[0] == "collateral-refused"


def test_without_a_folder_nobody_is_asked(evil: tuple[EvilHost, grpc.Channel], roots: tuple[TrustRoot, ...]) -> None:
    HostCollateral(lambda: evil[1], "", roots, lambda *_, **__: pytest.fail("nothing to say")).refresh()


def test_intels_own_collateral_is_verified_and_every_change_of_it_is_refused(site: CollateralStore) -> None:
    content = (folder("tdx", "v4_uptodate_phala") / "collateral.json").read_bytes()
    fields = json.loads(content)
    for name, value in fields.items():
        if name == "pck_certificate_chain":
            continue
        other = value.replace("2025-06", "2025-07") if "issueDate" in value else value[:-40] + value[-39:] + "0"
        changed = json.dumps(fields | {name: other}).encode()
        (error,) = take_offer(site, [changed], INTEL, PHALA_TIME).refused
        assert error.reason in (Reason.CHAIN, Reason.EVIDENCE_FORMAT), name
    (foreign,) = take_offer(site, [content], VENDOR_ROOTS["Genoa"], PHALA_TIME).refused
    assert foreign.reason is Reason.CHAIN
    assert site.entries() == ()
    assert {said.kind for said in take_offer(site, [content], INTEL, PHALA_TIME).taken} >= {EndorsementKind.TCB_INFO}


def test_amds_own_list_is_verified_under_amds_root(site: CollateralStore) -> None:
    crl = (folder("anchors", "amd") / "crl_ark_milan_2022-05.der").read_bytes()
    chain = (folder("anchors", "amd") / "milan_ask_ark.pem").read_bytes()
    offer = take_offer(site, [crl, chain], VENDOR_ROOTS["Milan"], NOW)
    assert ([said.name for said in offer.taken], offer.refused) == (["ARK-Milan"], ())
    assert take_offer(site, [crl, chain], VENDOR_ROOTS["Genoa"], NOW).refused != ()


def test_an_operator_fetches_by_hand_what_the_charters_roots_or_the_vendors_signed(
    serving: RunningHost, world: World, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_bytes(serving.ca)
    (tmp_path / "charter.json").write_bytes(world.charter.envelope)
    mine = tmp_path / "mine"

    def fetch(*more: object) -> tuple[int, dict[str, Any]]:
        words = ["collateral", "fetch", "--coordinator", serving.target, "--ca", tmp_path / "ca.pem", "--store", mine]
        done = CliRunner().invoke(build_app(), [*map(str, (*words, *more)), "--json"])
        return done.exit_code, json.loads(done.stdout)["data"]

    # The host's list is under a software root, and no vendor's key stands behind it.
    code, data = fetch()
    assert (code, data["taken"], data["refused"][0]["code"]) == (4, [], Reason.CHAIN.code)
    assert not mine.exists()
    code, data = fetch("--charter", tmp_path / "charter.json")
    assert (code, data["taken"], data["refused"]) == (0, [{"kind": "crl", "name": "ARK-Genoa"}], [])
    assert number_in(CollateralStore(mine)) == [5]
