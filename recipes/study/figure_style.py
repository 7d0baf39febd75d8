"""How the pictures of a report look, and how one becomes SVG inside of a page and a PNG beside it. matplotlib.

A picture is drawn with colours that stand for CSS variables, so that one SVG suits a light and a dark page. Text stays text."""

import html
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

WIDTH, HEIGHT = 4.3, 3.1
"""Inches. Narrow, so that the text is readable on a phone; a wide page shows pictures side by side."""
NUM_SERIES = 8
LIGHT = ("#3465a4", "#c4402f", "#2e8540", "#b07d00", "#7b4fa3", "#00818a", "#a34d73", "#6b6b6b")
DARK = ("#7aa7e8", "#f0836f", "#6fc285", "#e0b54a", "#bb98e0", "#55c3cc", "#e193b8", "#ababab")
PNG_DPI = 150
FEW_DECADES = 150.0
"""Ratio of the largest to the least value up to which an axis has more labels than powers of ten."""
SHORT = 5.0
"""The same, up to which an axis may have fewer than two of 1, 2 and 5 times powers of ten."""


@dataclass(frozen=True)
class Palette:
    """Colours of a picture."""

    ink: str
    muted: str
    grid: str
    series: tuple[str, ...]

    def of(self, number: int) -> str:
        """Return the colour of series `number`. After the last one they begin again."""
        return self.series[number % len(self.series)]


STAND_INS = Palette("#010101", "#020202", "#030303", tuple(f"#0400{number:02d}" for number in range(NUM_SERIES)))
"""Colours that render() replaces by CSS variables."""
ON_WHITE = Palette("#1a1a1a", "#666666", "#dddddd", LIGHT)
VARIABLES = {"#010101": "--ink", "#020202": "--muted", "#030303": "--grid"} | {
    color: f"--series-{number}" for number, color in enumerate(STAND_INS.series)
}


class Chart(NamedTuple):
    """A picture of the report: its name for files, its title and a sentence, and the function that draws it on axes."""

    name: str
    title: str
    caption: str
    draw: Callable[[Any, Palette], None]


def render(picture: Chart, png: Path) -> str:
    """Return the picture as SVG for a page, and write it to `png` for other uses. Raises: OSError."""
    with _drawn(picture, ON_WHITE) as figure:
        target = io.BytesIO()
        figure.savefig(target, format="png", dpi=PNG_DPI)
        png.write_bytes(target.getvalue())
    with _drawn(picture, STAND_INS) as figure:
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True)
    return _for_a_page(text.getvalue(), picture)


@contextmanager
def _drawn(picture: Chart, colors: Palette) -> Iterator[Any]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = {
        "text.parse_math": False,  # a name may have a $
        **{"svg.fonttype": "none", "svg.hashsalt": picture.name, "font.size": 9, "axes.titlesize": 9, "legend.fontsize": 7.5},
        **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), colors.ink),
        **{"axes.spines.top": False, "axes.spines.right": False, "grid.color": colors.grid, "grid.linewidth": 0.6, "legend.frameon": False},
    }
    with matplotlib.rc_context(settings):
        figure, axes = pyplot.subplots(figsize=(WIDTH, HEIGHT), layout="constrained")
        axes.grid(True, which="major")
        axes.set_axisbelow(True)
        try:
            picture.draw(axes, colors)
            yield figure
        finally:
            pyplot.close(figure)


def _for_a_page(svg: str, picture: Chart) -> str:
    """Return the <svg> element alone: without a fixed size, with CSS variables, with the title for screen readers."""
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.S)
    for color, name in VARIABLES.items():
        element = element.replace(color, f"var({name})")
    element = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", element, count=1)
    element = re.sub(r'id="(?!mp|m[0-9a-f]{8}|p[0-9a-f]{8})[^"]*"', "", element)  # names such as figure_1 stand in every picture
    return element.replace("<svg ", f'<svg role="img" aria-label="{html.escape(picture.title)}" ', 1)


def log_axes(*axes: Any) -> None:
    """Make these axes (x and y of a picture that is drawn) logarithmic. Labels stand at powers of ten, and at 2 and 5 times them if there
    are few, or at round numbers if there are none of these."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for axis in axes:
        (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
        low, high = axis.get_data_interval()
        ratio = high / max(low, 1e-300)
        locator = LogLocator(subs=(1.0,) if ratio > FEW_DECADES else (1.0, 2.0, 5.0)) if ratio > SHORT else MaxNLocator(6)
        axis.set_major_locator(locator)
        axis.set_major_formatter(
            FuncFormatter(lambda value, place: f"{value:.3g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e"))
        )
        axis.set_minor_formatter(NullFormatter())


def css() -> str:
    """Return the CSS variables of the colours, for light and dark pages."""

    def block(ink: str, muted: str, grid: str, paper: str, card: str, series: tuple[str, ...]) -> str:
        named = {"ink": ink, "muted": muted, "grid": grid, "paper": paper, "card": card}
        named |= {f"series-{number}": color for number, color in enumerate(series)}
        return ":root{" + "".join(f"--{name}:{color};" for name, color in named.items()) + "}"

    light = block("#1a1a1a", "#5c5c5c", "#dddddd", "#fbfbfa", "#ffffff", LIGHT)
    dark = block("#ececec", "#a3a3a3", "#3a3d42", "#15171a", "#1d2024", DARK)
    return f"{light}@media (prefers-color-scheme:dark){{{dark}}}"
