"""The documentation can be entered and read: every page is reachable from the index, links resolve, tables are narrow, README is short.
README's commands are run by tests/test_readme.py and tests/slurm/test_readme.py."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
MAX_CELL, MAX_README_LINES, MAX_README_COLUMNS, FIRST_COMMAND_LINE = 120, 90, 100, 20
LINK = re.compile(r"!?\[([^\]]*)\]\(([^)\s]+)\)")
CODE = re.compile(r"^( {4,}|\t).*$|`[^`\n]*`", re.M)


def links(text: str) -> list[str]:
    """Targets of the Markdown links outside of code."""
    return [target for _, target in LINK.findall(CODE.sub("", text))]


def anchors(text: str) -> set[str]:
    """GitHub's anchors of the headings."""
    headings = re.findall(r"^#+ +(.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(page: Path, text: str) -> list[str]:
    """Links of a page to files or headings of this repository that are not there."""
    found = []
    for target in links(text):
        name, _, anchor = target.partition("#")
        if "://" in name:
            continue
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            found.append(target)
    return found


def wide_cells(text: str) -> list[str]:
    """Cells of Markdown tables with more than MAX_CELL characters."""
    rows = [line for line in text.splitlines() if line.startswith("|")]
    cells = [cell.strip() for row in rows for cell in re.split(r"(?<!\\)\|", row)]
    return [cell for cell in cells if len(cell) > MAX_CELL]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve_and_tables_are_narrow(page: Path) -> None:
    assert broken(page, page.read_text()) == []
    assert wide_cells(page.read_text()) == []


def test_every_page_is_reachable_from_the_index() -> None:
    index = DOCS / "README.md"
    reached, waiting = set[Path](), [index]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        waiting += [
            (page.parent / name.partition("#")[0]).resolve() for name in links(page.read_text()) if name.partition("#")[0].endswith(".md")
        ]
        waiting = [one for one in waiting if one.parent == DOCS]
    assert set(DOCS.glob("*.md")) - reached == set()
    assert "docs/README.md" in links((ROOT / "README.md").read_text())


def test_readme_is_one_screen_and_a_half_and_begins_with_a_command() -> None:
    lines = (ROOT / "README.md").read_text().splitlines()
    assert len(lines) <= MAX_README_LINES
    assert [line for line in lines if len(LINK.sub(r"\1", line)) > MAX_README_COLUMNS] == []
    assert next(number for number, line in enumerate(lines, 1) if line.startswith("    make ")) <= FIRST_COMMAND_LINE


def test_what_these_checks_look_for_is_found(tmp_path: Path) -> None:
    page = tmp_path / "a.md"
    page.write_text(
        "# A heading: `x`\n[ok](#a-heading-x) [bad](#b) [gone](gone.md) [out](https://example.org)\n    [code](c.md) `[d](d.md)`\n"
    )
    assert broken(page, page.read_text()) == ["#b", "gone.md"]
    assert wide_cells(f"| a | {'b' * 121} |\n{'c' * 200}\n| d \\| e | f |") == ["b" * 121]
