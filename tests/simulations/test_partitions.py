"""Who has which rows: every row once, every site enough, seeds that repeat, and errors that say what to change."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from simulations import partitions
from simulations.dataset import Dataset
from simulations.partition import Partition
from simulations.partitions import by_column, dirichlet, holdings, iid, labels_each, log_normal, power_law, shards
from simulations.partitions.least import with_least
from trusted.documents.schema import member_id

Split = Callable[..., Partition]
DRAWN: dict[str, Split] = {
    "iid": iid,
    "log-normal": lambda data, sites, **more: log_normal(data, sites, sigma=1.5, **more),
    "power law": lambda data, sites, **more: power_law(data, sites, exponent=1.2, **more),
    "dirichlet": lambda data, sites, **more: dirichlet(data, sites, alpha=0.3, **more),
    "labels each": lambda data, sites, **more: labels_each(data, sites, labels=3, **more),
    "shards": lambda data, sites, **more: shards(data, sites, each=2, **more),
}


def made(rows: int = 2000, labels: int = 10, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    return Dataset({"x": rng.random(rows), "y": rng.integers(0, labels, rows)}, "y")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return made()


def test_rows_that_lie_in_the_order_of_the_sites_are_known_without_their_numbers() -> None:
    sizes = [3, 1, 4]
    said, found = Partition.consecutive(sizes), Partition.of(np.split(np.arange(8), [3, 4]))
    for partition in (said, found):
        assert partition.lies_in_order
        assert [partition.rows(site).tolist() for site in range(3)] == [[0, 1, 2], [3], [4, 5, 6, 7]]
        assert partition.order.tolist() == list(range(8))
        assert (partition.sizes.tolist(), partition.size, partition.names) == (sizes, 8, found.names)
        assert (partition.fits(8), partition.fits(7)) == (True, False)


def test_ten_million_rows_in_order_take_no_memory() -> None:
    tracemalloc.start()
    try:
        partition = Partition.consecutive([1000] * 10_000)
        assert partition.size == 10_000_000
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("parts", [([1, 2], [0]), ([0, 1], [3]), ([0, 1], [1])])
def test_rows_in_another_order_keep_their_numbers(parts: tuple[list[int], ...]) -> None:
    partition = Partition.of([np.array(part) for part in parts])
    assert not partition.lies_in_order
    assert [partition.rows(site).tolist() for site in range(2)] == list(parts)
    assert (partition.fits(4), partition.fits(max(map(max, parts)))) == (True, False)


@pytest.mark.parametrize(
    ("sizes", "names", "sentence"),
    [
        ([], (), "at least one site expected"),
        ([3, 0], (), "site-0001 has no rows"),
        ([3, -1], (), "site-0001 has no rows"),
        ([3, 1], ("a",), "2 different names expected"),
    ],
)
def test_sizes_that_are_none_are_refused(sizes: list[int], names: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Partition.consecutive(sizes, names)


@pytest.mark.parametrize("split", DRAWN.values(), ids=DRAWN)
def test_every_row_has_one_site_and_the_same_seed_gives_the_same_partition(data: Dataset, split: Split) -> None:
    first, again, other = (split(data, 30, seed=seed) for seed in (7, 7, 8))
    assert np.array_equal(np.sort(first.order), np.arange(len(data)))
    assert np.array_equal(first.order, again.order)
    assert np.array_equal(first.starts, again.starts)
    assert not np.array_equal(first.order, other.order)
    assert all(member_id(name, "name") for name in first.names)


@pytest.mark.parametrize("split", DRAWN.values(), ids=DRAWN)
@pytest.mark.parametrize("least", [1, 20, 66])
def test_every_site_has_at_least_what_was_asked_for(data: Dataset, split: Split, least: int) -> None:
    partition = split(data, 30, least=least)
    assert partition.sizes.min() >= least
    assert np.array_equal(np.sort(partition.order), np.arange(len(data)))


@pytest.mark.parametrize("split", DRAWN.values(), ids=DRAWN)
def test_more_than_there_is_is_refused_with_what_to_change(data: Dataset, split: Split) -> None:
    with pytest.raises(
        ValueError, match="30 sites of at least 67 rows need 2010, and there are 2000: ask for at most 29"
    ):
        split(data, 30, least=67)
    for sites, least in ((0, 1), (-1, 1), (3, 0)):
        with pytest.raises(ValueError, match="at least one site and one row"):
            split(data, sites, least=least)


def test_iid_sites_differ_by_one_row_at_most_and_hold_every_label(data: Dataset) -> None:
    partition = iid(data, 7)
    assert partition.sizes.max() - partition.sizes.min() <= 1
    assert (holdings(partition, data).counts > 0).all()


def test_a_small_alpha_makes_sites_unlike_and_a_large_one_alike(data: Dataset) -> None:
    def unlike(alpha: float) -> float:
        counts = holdings(dirichlet(data, 10, alpha=alpha), data).counts
        return float((counts / counts.sum(axis=1, keepdims=True)).std(axis=0).mean())

    assert unlike(0.1) > 2 * unlike(1.0) > 4 * unlike(100.0)


@pytest.mark.parametrize("alpha", [0.0, -1.0, float("nan"), float("inf"), 1e7])
def test_an_alpha_that_means_nothing_is_refused(data: Dataset, alpha: float) -> None:
    with pytest.raises(ValueError, match="alpha above 0"):
        dirichlet(data, 10, alpha=alpha)


def test_the_smallest_alpha_gives_each_label_to_one_site_and_the_least_to_all_others(data: Dataset) -> None:
    counts = holdings(dirichlet(data, 40, alpha=1e-300, least=3), data).counts
    assert counts.sum(axis=1).min() == 3
    assert (counts.max(axis=0) > 100).all()


def test_few_rows_of_each_label_do_not_all_go_to_the_same_sites() -> None:
    """What is rounded is rounded otherwise for each label, so that a site left out by one is not by all."""
    partition = dirichlet(made(rows=5000), 1000, alpha=1e6)  # a label has half as many rows as there are sites
    assert np.count_nonzero(partition.sizes < 3) < 100


@pytest.mark.parametrize(("sites", "labels"), [(30, 1), (30, 3), (30, 10), (4, 3), (7, 4)])
def test_every_site_has_as_many_labels_as_were_asked_for_and_every_label_somebody(
    data: Dataset, sites: int, labels: int
) -> None:
    counts = holdings(labels_each(data, sites, labels=labels, seed=sites), data).counts
    assert set((counts > 0).sum(axis=1)) == {labels}
    holders = (counts > 0).sum(axis=0)
    assert holders.max() - holders.min() <= 1


def test_labels_that_nobody_would_have_are_refused_with_what_to_change(data: Dataset) -> None:
    with pytest.raises(ValueError, match="3 sites with 3 labels each leave some of 10 with nobody: ask for at least 4"):
        labels_each(data, 3, labels=3)
    for labels in (0, 11):
        with pytest.raises(ValueError, match="from 1 to 10 labels"):
            labels_each(data, 30, labels=labels)


def test_shards_are_equal_and_hold_few_labels(data: Dataset) -> None:
    partition = shards(data, 25, each=2)
    assert partition.sizes.max() - partition.sizes.min() <= 2
    assert (holdings(partition, data).counts > 0).sum(axis=1).max() <= 4
    with pytest.raises(ValueError, match="from 1 to 80 shards"):
        shards(data, 25, each=81)


@pytest.mark.parametrize("split", [DRAWN["log-normal"], DRAWN["power law"]], ids=["log-normal", "power law"])
def test_quantity_skew_makes_few_sites_large(data: Dataset, split: Split) -> None:
    sizes = np.sort(split(data, 30).sizes)
    assert sizes[-1] > 8 * sizes[15]
    assert np.ptp(log_normal(data, 30, sigma=0.0).sizes) <= 1
    assert np.ptp(power_law(data, 30, exponent=0.0).sizes) <= 1


@pytest.mark.parametrize("bad", [-0.1, 11.0, float("nan")])
def test_a_skew_that_means_nothing_is_refused(data: Dataset, bad: float) -> None:
    with pytest.raises(ValueError, match="from 0 to 10"):
        log_normal(data, 30, sigma=bad)
    with pytest.raises(ValueError, match="from 0 to 10"):
        power_law(data, 30, exponent=bad)


def test_a_column_makes_sites_by_its_values() -> None:
    data = Dataset({"inst": np.array([3, 1, 3, 12]), "site": np.array(["Mayo Clinic", "b", "Mayo Clinic", "b"])})
    partition = by_column(data, "inst")
    assert partition.names == ("inst-1", "inst-3", "inst-12")
    assert [partition.rows(site).tolist() for site in range(3)] == [[1], [0, 2], [3]]
    assert set(by_column(data, "site").names) == {"mayo-clinic", "b"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(["a", "A"]), "are both called 'a'"),
        (np.array([1.0, np.nan]), "rows without a value in 'c'"),
        (np.array(["a", ""]), "rows without a value in 'c'"),
        (np.array(["a", "!"]), "makes no name"),
    ],
    ids=["alike", "nan", "empty", "no letters"],
)
def test_values_that_make_no_names_are_refused(values: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        by_column(Dataset({"c": values}), "c")


def test_a_column_that_is_missing_or_makes_too_small_sites_is_named() -> None:
    data = Dataset({"c": np.array(["a", "a", "b"])})
    with pytest.raises(ValueError, match="no column 'd'; there are c"):
        by_column(data, "d")
    with pytest.raises(ValueError, match="b has 1 rows, fewer than 2"):
        by_column(data, "c", least=2)


@pytest.mark.parametrize("seed", range(5))
def test_only_the_largest_give_and_no_more_than_is_lacking(seed: int) -> None:
    rng = np.random.default_rng(seed)
    owner = np.minimum(rng.geometric(0.2, 400) - 1, 19)
    before = np.bincount(owner, minlength=20)
    after = with_least(owner, 20, 5, rng).sizes
    gave, took = before > after, before < after
    assert (after[took] == 5).all()
    assert (before[before < 5] < after[before < 5]).all()
    assert after[gave].max() - after[gave].min() <= 1
    assert before[~gave & ~took].max() <= after[gave].max()


def test_ten_thousand_sites_are_drawn_in_about_a_second_and_memory_of_the_rows() -> None:
    data = made(rows=500_000)
    for split in DRAWN.values():
        began = time.process_time()
        split(data, 10_000, least=3)
        assert time.process_time() - began < 4  # a quarter of a second to half a second where nothing else runs
    tracemalloc.start()
    dirichlet(data, 10_000, alpha=0.1, least=3)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60e6


# --- the picture -----------------------------------------------------------------------------------------------------


def test_holdings_count_what_each_site_has(data: Dataset) -> None:
    partition = dirichlet(data, 5, alpha=1.0)
    held = holdings(partition, data)
    for site in range(5):
        mine = np.bincount(data.column("y")[partition.rows(site)], minlength=10)
        assert held.counts[site].tolist() == mine.tolist()
    assert held.sizes.tolist() == partition.sizes.tolist()
    assert holdings(partition, Dataset(data.columns)).labels == ("rows",)


def test_the_text_has_a_line_for_each_site_or_for_some_from_largest_to_smallest(data: Dataset) -> None:
    few = holdings(iid(data, 5), data).text().splitlines()
    assert len(few) == 7
    assert few[1].startswith("site-0000        400  ")
    many = holdings(power_law(data, 100), data).text(most_sites=10).splitlines()
    assert len(many) == 12
    sizes = [int(line.split()[1]) for line in many[1:-1]]
    assert sizes == sorted(sizes, reverse=True)
    assert many[-1].startswith("100 sites, 10 shown; rows: 2,000")


def test_the_picture_is_drawn(data: Dataset, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    for sites in (4, 500):
        path = tmp_path / f"{sites}.png"
        holdings(iid(data, sites), data).save(path)
        assert path.read_bytes().startswith(b"\x89PNG")
    shown = holdings(iid(data, 4), data)._repr_png_()
    assert shown is not None
    assert shown.startswith(b"\x89PNG")


def test_without_matplotlib_one_sentence_says_what_to_install(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(RuntimeError, match=r"pip install 'cloister\[simulate\]'"):
        holdings(iid(data, 3), data).figure()
    assert holdings(iid(data, 3), data)._repr_png_() is None


def test_every_partition_that_the_room_offers_is_tried_here() -> None:
    assert set(partitions.__all__) - {"Holdings", "holdings", "by_column"} == {
        name.replace("-", "_").replace(" ", "_") for name in DRAWN
    }
