"""Partitions and behaviours by name, and one sentence for what does not read."""

from __future__ import annotations

import numpy as np
import pytest

from simulations.behaviour import Behaviour
from simulations.behaviours import backdoor, churn, constants, dropouts, label_flip, outages
from simulations.dataset import Dataset
from simulations.named import BEHAVIOURS, PARTITIONS, read_behaviours, read_partition, spelled
from simulations.partitions import dirichlet

NAMES = tuple(f"site-{place:04}" for place in range(10))
DATASET = Dataset({"x": np.arange(60.0), "y": np.arange(60) % 3, "inst": np.arange(60) % 4}, "y")


def read_all(text: str, dataset: Dataset = DATASET) -> tuple[Behaviour, ...]:
    return read_behaviours(text, dataset, names=NAMES, seed=3)


def read_one(text: str, dataset: Dataset = DATASET) -> Behaviour:
    (found,) = read_all(text, dataset)
    return found


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
    found = read_one("dropouts:0.25,chance=0.5", DATASET)
    assert (found.name, found.says, found.sites) == (
        *("dropouts", dropouts(0.25, chance=0.5).says),
        0.25,
    )
    assert read_one("sign-flip:site-0001+site-0003", DATASET).sites == ("site-0001", "site-0003")


def test_what_lies_about_labels_lies_about_those_of_the_dataset() -> None:
    found = read_one("label_flip:0.2", DATASET)
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
        ("mislabel:0.1,of=1,to=9", "to: no row is labelled 9; labels are 0, 1, 2"),
        ("backdoor:0.1,trigger=x:1", "say target; write backdoor:SHARE,trigger=COLUMN:NUMBER+…,target=…,share=0.5"),
        ("backdoor:0.1,target=1", "say trigger"),
        ("backdoor:0.1,trigger=x,target=1", "trigger is COLUMN:NUMBER, not 'x'; columns are x, y, inst"),
        ("backdoor:0.1,trigger=z:1,target=1", "trigger is COLUMN:NUMBER, not 'z:1'"),
        ("backdoor:0.1,trigger=x:much,target=1", "x is set to a number, not 'much'"),
        ("backdoor:0.1,trigger=town:1,target=1", "column 'town' does not hold numbers"),
        ("backdoor:0.1,trigger=x:1,target=7", "target: no row is labelled 7"),
        ("backdoor:0.1,trigger=x:1,target=1,share=2", "share from 0 to 1 expected"),
        ("outages:chance=0.5", "say first who, as outages:0.2/0.2 (a share) or outages:site-0001+site-0004"),
        ("outages:0.5", "say chance; write outages:SHARE/SHARE/…,chance=…"),
        ("outages:0.6/0.6,chance=0.5", "the groups are more than all 10 sites"),
        ("outages:0.5/,chance=0.5", "no site is called ''"),
        ("outages:2,chance=0.5", "a share of sites from 0 to 1 expected, not 2.0"),
        ("outages:site-0001/site-0001+site-0002,chance=0.5", "site-0001 is in two groups"),
        ("outages:site-0001/north,chance=0.5", "no site is called 'north'"),
        ("outages:0.5,chance=2", "chance from 0 to 1 expected"),
        ("churn:within=3,stays=4", "say first who, as churn:0.2 (a share)"),
        ("churn:1,within=3", "say stays; write churn:SHARE,within=…,stays=…"),
        ("churn:1,within=0,stays=4", "within from 1"),
        ("churn:north,within=3,stays=4", "no site is called 'north'"),
        ("churn:2,within=3,stays=4", "a share of sites from 0 to 1 expected"),
    ],
)
def test_a_behaviour_that_does_not_read_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        read_one(text, Dataset({**DATASET.columns, "town": np.array(["here"] * 60)}, "y"))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_a_backdoor_is_written_with_the_numbers_of_its_trigger() -> None:
    found = read_one("backdoor:site-0002,trigger=x:99+inst:7,target=2,share=0.25")
    expected = backdoor(("site-0002",), trigger=constants(x=99, inst=7), label="y", target=2, share=0.25)
    assert (found.says, found.sites) == (expected.says, expected.sites)
    assert found.poisons is not None
    assert expected.poisons is not None
    rows, others = (poison(DATASET.columns, np.random.default_rng(0)) for poison in (found.poisons, expected.poisons))
    assert all(np.array_equal(rows[name], others[name]) for name in rows)
    assert np.count_nonzero((rows["x"] == 99) & (rows["inst"] == 7) & (rows["y"] == 2)) == 15
    assert read_one("backdoor:0.1,x:99,target=2").probes is not None  # the first number needs no name


def test_outages_are_written_as_groups_of_names_or_shares_and_nobody_is_in_two() -> None:
    named = read_all("outages:site-0001+site-0002/site-0003,chance=0.5")
    expected = outages({"1": ("site-0001", "site-0002"), "2": ("site-0003",)}, chance=0.5, seed=3)
    assert [(one.name, one.sites) for one in named] == [(one.name, one.sites) for one in expected]
    drawn = read_all("outages:0.5/site-0004/0.4,chance=0.5")
    groups = [set(one.sites) for one in drawn if isinstance(one.sites, tuple)]
    assert [len(group) for group in groups] == [5, 1, 4]
    assert set().union(*groups) == set(NAMES)
    assert [one.sites for one in read_all("outages:0.5/site-0004/0.4,chance=0.5")] == [one.sites for one in drawn]


def test_churn_is_written_with_who_comes_and_goes() -> None:
    everybody = read_all("churn:1,within=3,stays=4")
    assert [(one.name, one.sites) for one in everybody] == [
        (one.name, one.sites) for one in churn(NAMES, within=3, stays=4, seed=3)
    ]
    some = read_all("churn:0.4,3,stays=4")
    leaving = [name for one in some if "leaving" in one.name and isinstance(one.sites, tuple) for name in one.sites]
    assert len(set(leaving)) == 4


def test_lies_about_labels_ask_which_column_that_is() -> None:
    with pytest.raises(ValueError, match="say with --label"):
        read_one("label_flip:0.2", Dataset(DATASET.columns))


def test_every_name_is_spelled_with_what_it_takes() -> None:
    for names in (PARTITIONS, BEHAVIOURS):
        for (usage, does), name in zip(spelled(names), names, strict=True):
            assert usage.startswith(name)
            assert does
