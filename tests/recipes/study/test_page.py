"""The HTML of a report: well formed, escaped, and without anything that a browser would load."""

from html.parser import HTMLParser
from itertools import pairwise

import pytest

from recipes.study.figure_style import Chart
from recipes.study.page import Page, TableCell

VOID = {"meta", "br", "hr", "img", "input", "link"}
SVG = '<svg viewBox="0 0 1 1"><text>svg text</text></svg>'
BAD = '<script>alert("x")</script> & co'


class Checked(HTMLParser):
    """Reads a page, and asserts that its tags are closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element."""
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute stands twice: {tag} {attrs}"
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element that closes itself."""
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close an element."""
        assert self.open and self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        """Remember a text."""
        if "style" not in self.open:
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """Return the attributes of all elements with this tag."""
        return [attributes for name, attributes in self.seen if name == tag]


def page(**changes: object) -> str:
    """Return the HTML of a small page with these changes."""
    parts: dict[str, object] = {"title": "Study a", "subtitle": "sub", "can": ["yes"], "cannot": ["no"], "fit": ["law"], "rules": ["rule"]}
    parts |= {"pictures": [(Chart("c", "chart", "caption", lambda axes, colors: None), SVG)], "footer": "end"}
    parts |= {"columns": ["run", "state"], "table": [[TableCell("r", "cells/r/"), TableCell("done", kind="ok")]]}
    return Page(**{**parts, **changes}).to_html()  # type: ignore[arg-type]


def test_a_page_is_well_formed_and_has_every_part_in_order() -> None:
    found = Checked(page())
    text = "".join(found.text)
    parts = ["Study a", "sub", "What can be concluded", "yes", "What cannot", "no", "Pictures", "chart", "svg text", "caption"]
    parts += ["The fit", "law", "Runs", "run", "done", "Rules", "rule", "end"]
    places = [text.index(part, 7 if part == "Study a" else 0) for part in parts]
    assert places == sorted(places)
    assert page().startswith("<!doctype html>") and {"charset": "utf-8"} in found.all("meta")
    assert any(one.get("name") == "viewport" for one in found.all("meta"))
    assert {"class": "ok"} in found.all("td") and {"href": "cells/r/"} in found.all("a")


def test_parts_without_content_are_left_out() -> None:
    text = "".join(Checked(page(pictures=[], fit=[])).text)
    assert "Pictures" not in text and "The fit" not in text and "Runs" in text


@pytest.mark.parametrize("part", ["title", "subtitle", "can", "cannot", "fit", "rules", "columns", "footer"])
def test_texts_are_escaped_everywhere(part: str) -> None:
    html = page(**{part: BAD if part in ("title", "subtitle", "footer") else [BAD]})
    assert "<script" not in html and BAD in "".join(Checked(html).text)


def test_cells_links_and_captions_are_escaped() -> None:
    chart = Chart("c", BAD, BAD, lambda axes, colors: None)
    html = page(table=[[TableCell(BAD, 'x" onclick="y'), TableCell(BAD, kind="reason")]], pictures=[(chart, SVG)])
    found = Checked(html)
    assert "<script" not in html and found.all("a") == [{"href": 'x" onclick="y'}]
    assert "".join(found.text).count(BAD) == 4


def test_a_page_loads_nothing_and_runs_nothing() -> None:
    found = Checked(page())
    assert not {tag for tag, _ in found.seen} & {"link", "script", "img", "iframe", "object", "embed"}
    assert not any(name == "src" or name.startswith("on") for _, attributes in found.seen for name in attributes)
    assert "@import" not in page() and "url(" not in page() and "http" not in page()


def test_heading_levels_skip_none() -> None:
    levels = [int(tag[1]) for tag, _ in Checked(page()).seen if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))
