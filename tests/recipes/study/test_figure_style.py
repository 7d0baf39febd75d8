"""A picture as SVG for a page (colours are CSS variables, no fixed size, no id twice) and as PNG."""

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from recipes.study.figure_style import DARK, LIGHT, NUM_SERIES, ON_WHITE, STAND_INS, Chart, Palette, _drawn, css, log_axes, render

SVG = "{http://www.w3.org/2000/svg}"


def draw_all(axes: Any, colors: Palette) -> None:
    """Draw a bit of everything that the pictures of a report have."""
    for number in range(NUM_SERIES):
        axes.plot([1, 10, 100], [1 + number, 2, 3], "o-", color=colors.of(number), label=f"series {number}")
    axes.fill_between([1, 100], [1, 1], [2, 2], color=colors.muted, alpha=0.2)
    axes.errorbar([5], [2], [[0.5], [0.5]], color=colors.ink, capsize=3)
    log_axes(axes.xaxis, axes.yaxis)
    axes.set(xlabel="size", ylabel="error")
    axes.legend(title="legend")


@pytest.fixture(scope="module")
def svg(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The SVG of a picture that has a bit of everything."""
    return render(chart(), tmp_path_factory.mktemp("svg") / "one.png")


def chart(name: str = "one", title: str = "A title", draw: Any = draw_all) -> Chart:
    """Return a chart."""
    return Chart(name, title, "A caption.", draw)


def texts_of(svg: str) -> list[str]:
    """Return the texts of a picture."""
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def labels_between(low: float, high: float) -> list[float]:
    """Return the numbers beside a logarithmic axis of a picture whose values are between these."""

    def draw(axes: Any, colors: Palette) -> None:
        axes.plot([1, 2], [low, high])
        log_axes(axes.yaxis)
        axes.figure.canvas.draw()
        bottom, top = axes.get_ylim()
        found.extend(float(one.get_text()) for one in axes.get_yticklabels() if bottom <= one.get_position()[1] <= top and one.get_text())

    found: list[float] = []
    with _drawn(chart(draw=draw), ON_WHITE):
        return found


def test_a_png_is_written_and_the_svg_is_one_element_with_its_title(tmp_path: Path) -> None:
    svg = render(chart(), tmp_path / "one.png")
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg" and root.get("role") == "img" and root.get("aria-label") == "A title"
    assert root.get("width") is None and root.get("height") is None and root.get("viewBox")
    assert "<metadata" not in svg and "<!DOCTYPE" not in svg and "<?xml" not in svg
    assert {"size", "error", "legend", "series 0"} <= set(texts_of(svg)), "text stays text"


def test_every_colour_of_the_svg_is_a_css_variable_that_the_page_defines(svg: str) -> None:
    assert not re.findall(r"#[0-9a-fA-F]{3,8}\b(?=[;\"'])", re.sub(r'(?:href|id)="[^"]*"', "", svg)), "no fixed colour"
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", svg))
    assert {"--ink", "--muted", "--grid", *(f"--series-{number}" for number in range(NUM_SERIES))} == used
    for style in re.findall(r"(?:fill|stroke): ?([^;\"]+)", svg):
        assert style.startswith(("var(--", "none", "evenodd", "nonzero")), style
    assert all(f"{name}:" in css() for name in used)


def test_text_without_a_colour_of_its_own_would_be_black_on_a_dark_page(svg: str) -> None:
    for element in ElementTree.fromstring(svg).iter(f"{SVG}text"):
        assert "var(--ink)" in element.get("style", "") or "var(--ink)" in (element.get("fill") or ""), "".join(element.itertext())


def test_two_pictures_on_a_page_share_no_id_and_every_reference_is_there(tmp_path: Path, svg: str) -> None:
    first, second = svg, render(chart("two"), tmp_path / "two.png")
    ids = [re.findall(r'\bid="([^"]+)"', svg) for svg in (first, second)]
    assert not set(ids[0]) & set(ids[1]) and len(ids[0]) == len(set(ids[0])) > 0
    for one, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r'href="#([^"]+)"', one)) | set(re.findall(r"url\(#([^)]+)\)", one)) <= set(own)


def test_the_same_picture_gives_the_same_bytes(tmp_path: Path, svg: str) -> None:
    assert render(chart(), tmp_path / "one.png") == svg


def test_a_title_with_quotes_and_brackets_is_escaped(tmp_path: Path) -> None:
    title = 'a "b" <script> & c'
    assert ElementTree.fromstring(render(chart(title=title), tmp_path / "one.png")).get("aria-label") == title


@pytest.mark.parametrize("label", ["path $A/x, $B/y", "$a_$", "_hidden", "a <b> & c"])
def test_a_label_is_shown_letter_by_letter(tmp_path: Path, label: str) -> None:
    """Values of axes are texts of the user, such as paths; no mathematics, and no label that matplotlib drops."""

    def draw(axes: Any, colors: Palette) -> None:
        axes.plot([1, 2], [1, 2], color=colors.ink)
        axes.set_xticks([1, 2], [label, "other"])

    assert label in texts_of(render(chart(draw=draw), tmp_path / "one.png"))


def test_no_figure_stays_open_even_if_drawing_fails(tmp_path: Path) -> None:
    from matplotlib import pyplot

    def fail(axes: Any, colors: Palette) -> None:
        raise ValueError("no")

    render(chart(), tmp_path / "one.png")
    with pytest.raises(ValueError, match="no"):
        render(chart(draw=fail), tmp_path / "two.png")
    assert pyplot.get_fignums() == []


@pytest.mark.parametrize(("low", "high"), [(0.52, 0.93), (0.41, 0.62), (0.11, 0.19), (1.0, 90.0), (1e5, 3e6), (1e3, 1e9), (23000, 88000)])
def test_a_logarithmic_axis_has_at_least_two_labels(low: float, high: float) -> None:
    assert len(labels_between(low, high)) >= 2


@pytest.mark.parametrize(("low", "high"), [(0.77, 1.03), (0.95, 1.05), (1.1, 4.9), (2e5, 9e5)])
def test_a_logarithmic_axis_over_less_than_a_decade_has_several_labels(low: float, high: float) -> None:
    """Of 1, 2 and 5 times powers of ten there may be one or none."""
    assert 3 <= len(labels_between(low, high)) <= 9


def test_a_logarithmic_axis_over_many_decades_has_powers_of_ten_alone() -> None:
    assert all(f"{value:e}".startswith("1.000000e") for value in labels_between(1e3, 1e9))


def test_light_and_dark_define_the_same_variables_with_other_values() -> None:
    light, dark = css().split("@media (prefers-color-scheme:dark)")
    pairs = [dict(re.findall(r"(--[a-z0-9-]+):(#[0-9a-f]{6});", part)) for part in (light, dark)]
    assert pairs[0].keys() == pairs[1].keys() and len(pairs[0]) == 5 + NUM_SERIES
    assert all(pairs[0][name] != pairs[1][name] for name in pairs[0])
    assert len(set(LIGHT)) == len(set(DARK)) == len(set(STAND_INS.series)) == NUM_SERIES
    assert ON_WHITE.of(NUM_SERIES + 1) == LIGHT[1], "after the last one they begin again"
