"""One round's work at a site: what the app is given, what is uploaded, and what is done once only."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from secrets import token_bytes

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trusted.blob import BlobHeader, BlobKind, ContentKey, open_vector, seal_vector
from trusted.documents.layout import Dtype, Layout, TensorSpec
from trusted.documents.terms import Exchange
from trusted.encoding import Encoding
from trusted.errors import AppError, BlobError, Reason
from trusted.exchange import AGGREGATOR, Exchanged
from worker.contribution import Contributor, SealedUpdate
from worker.participant import AnnouncedBlob, Evaluate, Train

WHOLE = Layout((TensorSpec("frozen", Dtype.FLOAT32, (3000,)), TensorSpec("tuned", Dtype.FLOAT32, (1500,))))
PART = Layout(WHOLE.tensors[1:])
TUNED = slice(3000, 4500)
AGGREGATORS = Ed25519PrivateKey.generate()
VERIFY = AGGREGATORS.public_key().public_bytes_raw()
SITES = Ed25519PrivateKey.generate()
BASE = np.linspace(-1, 1, WHOLE.elements, dtype=np.float32)


class Store:
    """What a host does, in memory."""

    def __init__(self) -> None:
        self.blobs: dict[bytes, bytes] = {}
        self.fetched: list[bytes] = []

    def get_blob(self, blob: bytes, *, header: BlobHeader) -> Iterator[memoryview]:
        self.fetched.append(blob)
        yield memoryview(self.blobs[blob])

    def put_blob(self, blob: bytes, sealed: memoryview, progress: Callable[[int], None]) -> None:
        self.blobs[blob] = bytes(sealed)

    def sealed(self, header: BlobHeader, vector: np.ndarray) -> AnnouncedBlob:
        name, key = token_bytes(16), ContentKey.generate()
        parts = seal_vector(header, vector, key=key, signing_key=AGGREGATORS)
        self.blobs[name] = b"".join(bytes(part) for part in parts)
        return AnnouncedBlob(name, key, header, VERIFY)


@dataclass
class Trained:
    delta: np.ndarray
    num_examples: int = 7
    metrics: dict[str, float] | None = None


class App:
    """Adds the same number everywhere, and remembers what it was given."""

    def __init__(self, step: float = 0.5) -> None:
        self.step = step
        self.given: list[np.ndarray] = []
        self.elements = WHOLE.elements

    def train(self, model: np.ndarray, round_number: int, *, timeout_s: float) -> Trained:
        self.given.append(model.copy())
        return Trained(np.full(self.elements, self.step, dtype=np.float32), metrics={"auc": 0.5, "secret": 1.0})


class Site:
    """A contributor and what surrounds it."""

    def __init__(self, *, partial: bool = True, update: Encoding = Encoding.INT8) -> None:
        terms = Exchange(Encoding.FLOAT32, update, ("tuned",) if partial else ())
        self.exchanged = Exchanged(bytes(32), WHOLE, PART if partial else WHOLE, terms)
        self.store, self.app = Store(), App()
        self.base = self.store.sealed(self.exchanged.header(BlobKind.BASE, 0, AGGREGATOR), BASE) if partial else None
        self.contributor = Contributor(self.exchanged, self.store, self.app, SITES, frozenset({"auc"}), 60)

    def task(self, number: int, value: float) -> Train:
        header = self.exchanged.header(BlobKind.MODEL, number, AGGREGATOR)
        model = self.store.sealed(header, np.full(header.elements, value, dtype=np.float32))
        return Train(
            number, model, self.base, token_bytes(16), self.exchanged.header(BlobKind.UPDATE, number, "site-1")
        )

    def contribute(self, task: Train) -> SealedUpdate:
        return self.contributor.contribute(task, lambda stage, percent: None)

    def uploaded(self, task: Train, update: SealedUpdate) -> np.ndarray:
        vector = np.empty(task.upload_header.elements, dtype=np.float32)
        stored, verify_key = [self.store.blobs[task.upload]], SITES.public_key().public_bytes_raw()
        open_vector(stored, vector, expected=task.upload_header, key=update.key, verify_key=verify_key)
        return vector


def test_the_app_sees_the_whole_model_and_its_exchanged_part_alone_is_uploaded():
    site = Site()
    task = site.task(1, 2.0)
    update = site.contribute(task)
    (given,) = site.app.given
    assert given[:3000].tobytes() == BASE[:3000].tobytes()
    assert (given[TUNED] == 2.0).all()
    np.testing.assert_allclose(site.uploaded(task, update), np.full(1500, 0.5), rtol=1e-6)
    assert len(update.sealed) == task.upload_header.sealed_bytes


def test_the_base_is_fetched_once_and_later_rounds_change_none_of_it():
    site = Site()
    for number in (1, 2, 3):
        site.contribute(site.task(number, float(number)))
    assert site.store.fetched.count(site.base.blob) == 1
    for number, given in enumerate(site.app.given, start=1):
        assert given[:3000].tobytes() == BASE[:3000].tobytes()
        assert (given[TUNED] == number).all()


def test_another_base_is_fetched_when_the_aggregator_names_one():
    site = Site()
    site.contribute(site.task(1, 1.0))
    site.base = site.store.sealed(site.base.header, -BASE)
    site.contribute(site.task(2, 1.0))
    assert site.app.given[1][:3000].tobytes() == (-BASE[:3000]).tobytes()


def test_a_base_that_was_altered_fails_the_round_and_trains_nothing():
    site = Site()
    blob = site.store.blobs[site.base.blob]
    site.store.blobs[site.base.blob] = blob[:-40] + bytes(40)
    with pytest.raises(BlobError) as caught:
        site.contribute(site.task(1, 1.0))
    assert caught.value.reason is Reason.BLOB_OPEN
    site.store.blobs[site.base.blob] = blob
    site.contribute(site.task(1, 1.0))
    assert len(site.app.given) == 1


def test_the_same_task_again_sends_the_same_bytes_and_trains_once():
    site = Site(partial=False)
    task = site.task(1, 1.0)
    update = site.contribute(task)
    sent = site.store.blobs.pop(task.upload)
    assert site.contribute(task) is update
    assert site.store.blobs[task.upload] == sent
    assert len(site.app.given) == 1
    site.contribute(site.task(1, 1.0))  # another name: sealed anew
    assert len(site.app.given) == 2


class SlowStore(Store):
    """A line that takes its time: each upload waits until ``go``."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.go = threading.Event(), threading.Event()
        self.at_once: list[int] = []
        self._at_work = 0

    def put_blob(self, blob: bytes, sealed: memoryview, progress: Callable[[int], None]) -> None:
        self._at_work += 1
        self.at_once.append(self._at_work)
        self.begun.set()
        assert self.go.wait(30)
        progress(len(sealed) // 2)
        super().put_blob(blob, sealed, progress)
        self._at_work -= 1


def test_what_a_broken_session_still_sends_is_not_sent_beside_it_and_the_next_one_tells_how_far_it_is():
    site = Site()
    fresh = SlowStore()
    fresh.blobs = site.store.blobs
    site.store = site.contributor.transport = fresh
    task, told = site.task(1, 0.25), ([], [])
    threads = [
        threading.Thread(target=site.contributor.contribute, args=(task, lambda *said, one=one: one.append(said)))
        for one in told
    ]
    threads[0].start()
    assert fresh.begun.wait(30)
    threads[1].start()
    until = time.monotonic() + 30
    while ("upload", 7) not in told[1] and time.monotonic() < until:  # until the second session has asked
        site.contributor._report("upload", 7)
        time.sleep(0.01)
    fresh.go.set()
    for thread in threads:
        thread.join(30)
    assert fresh.at_once == [1, 1]
    assert told[1].count(("upload", 50)) == 2  # of the upload that the first session began, and of its own
    assert ("upload", 50) not in told[0]
    assert len(site.app.given) == 1


@pytest.mark.parametrize("step", [np.nan, np.inf])
@pytest.mark.parametrize("update", Encoding)
def test_an_update_that_is_not_finite_is_never_sealed_in_any_encoding(step, update):
    site = Site(partial=False, update=update)
    site.app.step = step
    task = site.task(1, 1.0)
    with pytest.raises(AppError) as caught:
        site.contribute(task)
    assert caught.value.reason is Reason.APP_REPLY
    assert task.upload not in site.store.blobs


@pytest.mark.parametrize("elements", [WHOLE.elements - 1, WHOLE.elements + 1, PART.elements])
def test_an_update_of_another_size_is_refused_also_where_a_part_is_exchanged(elements):
    site = Site()
    site.app.elements = elements
    task = site.task(1, 1.0)
    with pytest.raises(AppError):
        site.contribute(task)
    assert task.upload not in site.store.blobs


def test_only_listed_metrics_and_the_time_of_each_stage_are_told():
    site = Site()
    update = site.contribute(site.task(1, 1.0))
    message = update.message()
    assert message["metrics"] == {"auc": 0.5}
    assert message["weight"] == 7
    assert sorted(message["seconds"]) == ["download", "seal", "train", "upload"]
    assert all(seconds >= 0 for seconds in message["seconds"].values())


# --- judging ---------------------------------------------------------------------------------------------------------


class Judge:
    """An evaluator that remembers what it was given."""

    trains_shadows = True

    def __init__(self) -> None:
        self.given: list[tuple[np.ndarray, int, np.ndarray | None]] = []

    def evaluate(self, model: np.ndarray, number: int, initial: np.ndarray | None, progress: object) -> dict[str, int]:
        self.given.append((model.copy(), number, initial))
        return {"round": number}


def final(site: Site, number: int, value: float) -> Evaluate:
    header = site.exchanged.header(BlobKind.FINAL, number, AGGREGATOR)
    return Evaluate(number, site.store.sealed(header, np.full(header.elements, value, dtype=np.float32)), site.base)


def test_the_whole_final_model_is_judged_and_shadows_start_where_round_1_did():
    site = Site()
    site.contributor.evaluator = judge = Judge()
    site.contribute(site.task(1, 2.0))
    site.contribute(site.task(2, 3.0))
    assert site.contributor.evaluate(final(site, 2, 4.0), lambda stage, percent: None) == {"round": 2}
    ((model, number, initial),) = judge.given
    assert number == 2
    assert model[:3000].tobytes() == BASE[:3000].tobytes()
    assert (model[TUNED] == 4.0).all()
    assert (initial[TUNED] == 2.0).all()


def test_a_worker_that_came_later_has_no_model_for_shadows():
    site = Site()
    site.contributor.evaluator = judge = Judge()
    site.contribute(site.task(2, 3.0))
    site.contributor.evaluate(final(site, 2, 4.0), lambda stage, percent: None)
    assert judge.given[0][2] is None


def test_a_worker_that_was_not_made_ready_judges_nothing():
    site = Site()
    with pytest.raises(AppError) as refused:
        site.contributor.evaluate(final(site, 2, 4.0), lambda stage, percent: None)
    assert refused.value.reason is Reason.APP_ROWS


def test_metrics_that_the_plan_does_not_list_are_counted_and_not_named():
    site, said = Site(), []
    site.contributor.note = lambda event, **fields: said.append((event, fields))
    site.contribute(site.task(1, 2.0))
    assert said == [("metrics-kept", {"round": 1, "count": 1})]
