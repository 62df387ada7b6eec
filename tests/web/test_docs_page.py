"""The page that describes the interface: for every reader, in every browser, without a network."""

from __future__ import annotations

from html.parser import HTMLParser
from itertools import pairwise

import pytest
from asking import Api

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Elements in order, each with the names of those around it; AssertionError if they overlap."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.texts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs)
        self.elements.append((tag, dict(attrs), list(self._open)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in self._open:
            self.texts[tag] = self.texts.get(tag, "") + data

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs, _ in self.elements if tag in tags]


@pytest.fixture
async def text(api: Api) -> str:
    async with api.session.get("/docs") as response:
        assert response.status == 200
        assert response.content_type == "text/html"
        assert response.charset == "utf-8"
        return await response.text()


@pytest.fixture
def page(text: str) -> Page:
    return Page(text)


def test_it_is_a_page_in_a_language_with_a_title(text: str, page: Page) -> None:
    assert text.startswith("<!doctype html>")
    assert page.all("html") == [{"lang": "en"}]
    assert page.texts["title"] == "marketd: interface"
    assert len(page.all("main")) == 1
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")


def test_its_headings_go_down_one_step_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _, _ in page.elements if tag in {"h1", "h2", "h3", "h4", "h5", "h6"}]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(lower <= upper + 1 for upper, lower in pairwise(levels))


def test_its_tables_have_captions_and_their_headers_say_of_what(page: Page) -> None:
    following = [tag for tag, _, _ in page.elements]
    tables = [index for index, tag in enumerate(following) if tag == "table"]
    assert tables
    assert all(following[index + 1] == "caption" for index in tables)
    assert {attrs.get("scope") for attrs in page.all("th")} == {"col", "row"}


def test_it_loads_nothing_and_runs_nothing(text: str, page: Page) -> None:
    assert page.all("script", "link", "img", "iframe", "object", "embed", "base", "form") == []
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in page.texts["style"]
    assert "@import" not in page.texts["style"]
    for _, attrs, _ in page.elements:
        assert not any(name.startswith("on") or name in {"src", "style"} for name in attrs)


async def test_its_links_lead_somewhere(api: Api, page: Page) -> None:
    links = {attrs["href"] for attrs in page.all("a")}
    ids = [attrs["id"] for _, attrs, _ in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert "#main" in links
    for link in links:
        assert link is not None
        if link.startswith("#"):
            assert link[1:] in ids
        else:
            async with api.session.get(link) as response:
                assert response.status == 200


def test_a_keyboard_reaches_what_scrolls_and_the_first_stop_skips_to_the_main_part(page: Page) -> None:
    assert all(attrs.get("tabindex") == "0" for attrs in page.all("pre"))
    assert page.all("a")[0]["href"] == "#main"


async def test_it_tells_every_route_key_and_answer_of_the_document(api: Api, page: Page) -> None:
    document = await api.get("/openapi.json")
    shown = page.texts["main"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert f"{method.upper()} {path}" in shown
            assert operation["summary"] in shown
            for parameter in operation["parameters"]:
                assert parameter["name"] in shown
            for answer in operation["responses"].values():
                assert answer["description"] in shown
    assert "/api/v1/stream" in shown
