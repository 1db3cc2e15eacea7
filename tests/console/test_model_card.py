"""The model card as a page and as sentences: everything escaped, nothing loaded, and what is withheld says so."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from console.card_page import headline, render
from tests.enclave.evaluations import card_of, terms, world_of
from tests.enclave.test_evaluating import joined
from tests.world import NOW, World
from trusted.card import VerifiedCard
from trusted.release import VerifiedRelease, release_name, verify_release

LOADS = {"script", "img", "link", "iframe", "object", "embed", "video", "audio", "source", "base", "form"}


def shown(world: World, **site: object) -> tuple[VerifiedCard, VerifiedRelease, str]:
    net = joined(world, **site)
    release = verify_release(net.store.blobs[release_name(world.plan.digest)], world.federation, NOW)
    card = card_of(net, world)
    return card, release, render(card, release).decode()


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


@pytest.fixture(scope="module")
def world(software_root, chip) -> World:
    return world_of(software_root, chip, name='<script>alert("x")</script>', purpose="a & b <b>")


def test_the_page_loads_nothing_and_escapes_what_people_wrote(world):
    _, _, page = shown(world)
    found = Tags(page)
    assert not LOADS & set(found.tags)
    assert not {name for name, _ in found.attributes} & {"src", "href", "onload", "onerror"}
    assert "url(" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b &lt;b&gt;" in page
    assert "default-src 'none'" in page


def test_the_page_says_what_a_clinician_and_a_lawyer_ask(world):
    card, _, page = shown(world)
    text = re.sub(r"<[^>]+>", " ", page)
    assert "NO HARDWARE PROTECTION" in text
    assert f"{card.content['evaluation']['overall']['auc']:.3f}" in text
    for words in ("Does it serve everybody alike?", "Does it remember people?", "What is not protected", "Calibration"):
        assert words in text
    for site in card.content["sites"]:
        assert site["dataset_commitment"] in text
    assert card.sha256.hex() in text


def test_what_is_withheld_says_so_on_the_page_and_in_words(software_root, chip):
    world = world_of(software_root, chip, terms(min_cell=10_000))
    card, _, page = shown(world)
    assert "withheld: too few rows or sites" in page
    assert any("withheld" in sentence for sentence in headline(card.content))


def test_an_app_without_scores_by_row_still_has_a_page(world):
    card, _, page = shown(world, tables=None)
    assert "APP-815" in page
    assert any("APP-815" in sentence for sentence in headline(card.content))


def test_figures_of_sites_are_on_the_page_where_the_plan_has_them(software_root, chip):
    world = world_of(software_root, chip, terms(per_site=True))
    card, _, page = shown(world)
    assert "By site" in page
    assert [cell["cell"] for cell in card.content["evaluation"]["by_site"]] == list(world.members)
