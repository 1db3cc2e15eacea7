"""Partitions and behaviours by name, and one sentence for what does not read."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.behaviours import dropouts, label_flip
from simulations.dataset import Dataset
from simulations.named import BEHAVIOURS, PARTITIONS, read_behaviour, read_partition, spelled
from simulations.partitions import dirichlet

DATASET = Dataset({"x": np.arange(60.0), "y": np.arange(60) % 3, "inst": np.arange(60) % 4}, "y")


def test_a_partition_is_called_by_its_name_and_numbers() -> None:
    expected = dirichlet(DATASET, 5, alpha=0.5, seed=3)
    for text in ("dirichlet:0.5", "dirichlet:alpha=0.5", "dirichlet:0.5,least=1"):
        found = read_partition(text, DATASET, 5, 3)
        assert np.array_equal(found.order, expected.order)
        assert np.array_equal(found.starts, expected.starts)


def test_a_partition_by_column_takes_its_sites_from_the_column() -> None:
    assert len(read_partition("by_column:inst", DATASET, 99, 0)) == 4
    assert len(read_partition("by-column:column=inst", DATASET, 99, 0)) == 4


def test_a_behaviour_is_called_by_its_name_with_who_and_how() -> None:
    found = read_behaviour("dropouts:0.25,chance=0.5", DATASET)
    assert (found.name, found.says, found.sites) == (
        *("dropouts", dropouts(0.25, chance=0.5).says),
        0.25,
    )
    assert read_behaviour("sign-flip:site-0001+site-0003", DATASET).sites == ("site-0001", "site-0003")


def test_what_lies_about_labels_lies_about_those_of_the_dataset() -> None:
    found = read_behaviour("label_flip:0.2", DATASET)
    assert found.poisons is not None
    rows = found.poisons(DATASET.columns, np.random.default_rng(0))
    expected = label_flip(0.2, label="y", values=[0, 1, 2]).poisons
    assert expected is not None
    assert np.array_equal(rows["y"], expected(DATASET.columns, np.random.default_rng(0))["y"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dirchlet:0.1", "did you mean dirichlet?"),
        ("what", "there are iid, dirichlet"),
        ("dirichlet", "say alpha; write dirichlet:alpha=…,least=1"),
        ("dirichlet:beta=1", "it has no 'beta'"),
        ("dirichlet:0.1,0.2", "it has no '0.2'"),
        ("dirichlet:much", "alpha is a number, not 'much'"),
        ("shards:each=1.5", "each is a whole number, not '1.5'"),
        ("by_column", "name the column, one of x, y, inst"),
        ("by_column:z", "no column 'z'"),
    ],
)
def test_a_partition_that_does_not_read_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        read_partition(text, DATASET, 5, 0)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dropout:0.1", "did you mean dropouts?"),
        ("sign_flip", "say first who"),
        ("sign_flip:times=3", "say first who"),
        ("dropouts:0.1", "say chance; write dropouts:SHARE,chance=…"),
        ("dropouts:0.1,chance=2", "chance"),
    ],
)
def test_a_behaviour_that_does_not_read_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        read_behaviour(text, DATASET)
    assert said in str(error.value)


def test_lies_about_labels_ask_which_column_that_is() -> None:
    with pytest.raises(ValueError, match="say with --label"):
        read_behaviour("label_flip:0.2", Dataset(DATASET.columns))


def test_every_name_is_spelled_with_what_it_takes() -> None:
    for names in (PARTITIONS, BEHAVIOURS):
        for (usage, does), name in zip(spelled(names), names, strict=True):
            assert usage.startswith(name)
            assert does
