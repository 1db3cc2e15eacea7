"""A fold of vectors that nobody sealed is the aggregator's fold, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from coordinator.enclave.fold import ContributionLost, MemberNoise, fold_from, fold_noisily, fold_noisily_from
from coordinator.enclave.jobs import Inline
from coordinator.enclave.model import GlobalModel
from simulations.aggregators.held_updates import HeldUpdates
from simulations.lanes import Lanes
from tests.enclave.folds import ADAM, RULES, Sealed, terms
from tests.enclave.test_folding import WEIGHTS, updates_of
from trusted.encoding import Encoding
from trusted.errors import Reason
from trusted.noise import NoiseKey


def respelled(update: np.ndarray, encoding: Encoding) -> np.ndarray:
    spelled, made = np.empty(encoding.size_bytes(len(update)), np.uint8), np.empty_like(update)
    encoding.encode_into(update, spelled)
    encoding.decode_into(spelled, made)
    return made


def held(sealed: Sealed, updates: list[np.ndarray]) -> HeldUpdates:
    entries = sealed.contributions
    members, weights = [entry.member for entry in entries], [entry.weight for entry in entries]
    vectors = [respelled(update, entries[0].header.encoding) for update in updates]
    return HeldUpdates(members, weights, vectors, entries[0].header)


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_makes_the_same_bits_of_held_updates_as_of_sealed_ones(rule, encoding):
    elements = encoding.piece_elements + 1001  # the second piece is another lane's
    updates = updates_of(7, elements)
    sealed, rule_terms = Sealed(updates, WEIGHTS[:7], encoding=encoding), terms(rule, server=ADAM)
    start = GlobalModel.first(np.full(elements, 0.1, "f4"), rule_terms.moments)
    expected = sealed.fold_into(start, rule_terms).state
    before = [update.copy() for update in updates]
    source = held(sealed, updates)
    for lanes in (1, 2):
        with Lanes(lanes) as jobs:
            fold_from(source, terms=rule_terms, advance=start.advance(rule_terms.server, 1), jobs=jobs)
        made = start.advanced().state
        assert made.model.tobytes() == expected.model.tobytes()
        assert all(a.tobytes() == b.tobytes() for a, b in zip(made.moments, expected.moments, strict=True))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(updates, before, strict=True))  # nothing was overwritten


def test_the_noisy_mean_is_the_same_bits_too():
    elements = Encoding.FLOAT32.piece_elements + 77
    updates = updates_of(5, elements)
    sealed, noise = Sealed(updates), MemberNoise(1.5, 0.7, NoiseKey(bytes(range(32))))
    start = GlobalModel.first(np.zeros(elements, "f4"), 0)
    fold_noisily(sealed.contributions, sealed.store, noise=noise, advance=start.advance(None, 1), jobs=Inline())
    expected = start.advanced().vector.copy()
    fold_noisily_from(held(sealed, updates), noise=noise, advance=start.advance(None, 1), jobs=Inline())
    assert start.advanced().vector.tobytes() == expected.tobytes()


@pytest.mark.parametrize("rule", RULES)
def test_a_held_update_that_is_not_finite_names_its_member(rule):
    updates = updates_of(8, 300)
    source = held(Sealed(updates), updates)
    source.vectors[4][-1] = np.nan
    start = GlobalModel.first(np.zeros(300, "f4"), 0)
    with pytest.raises(ContributionLost) as caught:
        fold_from(source, terms=terms(rule), advance=start.advance(None, 1), jobs=Inline())
    assert (caught.value.member, caught.value.error.reason) == ("m04", Reason.NON_FINITE)
