"""The limits are measured and reckoned. No time is asserted: machines differ, and ours are shared."""

from __future__ import annotations

import json
import multiprocessing

import pytest

from benchmarks.__main__ import main
from benchmarks.command import BenchmarkError
from simulations.costs.blob_port import blob_port_rates
from simulations.costs.grpc_limit import PIECE_BYTES, Traffic, _pieces, grpc_limit, move
from simulations.costs.processes import heard
from simulations.costs.rates import Rate
from simulations.costs.sockets import socket_rates
from simulations.costs.stages import stage_rates


def test_a_rate_is_payload_over_time() -> None:
    rate = Rate("half", 1_000_000_000, (0.5, 1.0, 2.0))
    assert (rate.median, rate.best) == (1.0, 2.0)
    assert rate.to_json()["gb_per_s_median"] == 1.0


def test_every_stage_of_one_core_is_measured() -> None:
    found = stage_rates(0.0)
    assert len(found) == len({rate.what for rate in found}) == 9
    assert all(rate.median > 0 for rate in found)


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_pieces_are_exactly_what_was_asked_for(size: int) -> None:
    pieces = list(_pieces(size))
    assert sum(map(len, pieces)) == size
    assert all(len(piece) == PIECE_BYTES for piece in pieces[:-1])


def test_traffic_counts_both_directions_of_every_worker() -> None:
    assert Traffic(workers=8, down_bytes=100, up_bytes=10).size_bytes == 880


def test_a_process_that_ends_early_is_an_error() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    with pytest.raises(BenchmarkError, match="ended early"):
        heard(ours, 1.0)


def test_a_process_that_says_nothing_is_an_error() -> None:
    ours, theirs = multiprocessing.Pipe()
    with pytest.raises(BenchmarkError, match="longer than"):
        heard(ours, 0.0)
    theirs.send("late")
    assert heard(ours, 1.0) == "late"


@pytest.mark.slow
def test_sockets_are_measured_between_two_processes() -> None:
    assert [rate.what for rate in socket_rates(megabytes=2, passes=2)] == ["Unix socket", "TCP on loopback"]
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_real_host_takes_blobs_and_gives_them() -> None:
    down, up = blob_port_rates(megabytes=2, passes=2)
    assert (down.what, up.what) == ("blob port down", "blob port up, to disk")
    assert min(down.median, up.median) > 0
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True])
def test_bare_grpc_moves_the_bytes_of_a_round(tls: bool) -> None:
    assert len(move(Traffic(workers=2, down_bytes=PIECE_BYTES + 1, up_bytes=1, tls=tls), passes=2)) == 2
    assert grpc_limit(workers=1, megabytes=0.1, tls=tls, passes=1) > 0
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_the_limits_are_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limits", "--json", "--mb", "1", "--workers", "2", "--seconds", "0"]) == 0
    rates = json.loads(capsys.readouterr().out)["data"]["rates"]
    whats = [rate["what"] for rate in rates]
    assert "gRPC, a round of 2 clients" in whats
    assert "gRPC up, 1 client, TLS" in whats
    assert all(rate["gb_per_s_median"] > 0 for rate in rates)
