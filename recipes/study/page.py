"""The report's HTML: one file without any other, for phones and desks, light and dark. Standard library only."""

import html
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from recipes.study.figure_style import Chart, css

STYLE = """
*{box-sizing:border-box}
body{margin:0 auto;max-width:72rem;padding:1rem;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
body{overflow-wrap:anywhere}
h1{font-size:1.6rem;margin:.2rem 0}h2{font-size:1.2rem;margin:1.6rem 0 .4rem}p,li{max-width:46rem}
.muted,figcaption{color:var(--muted);font-size:.9rem}
.pictures{display:grid;gap:1rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}
figure{margin:0;padding:.7rem;background:var(--card);border:1px solid var(--grid);border-radius:.5rem;min-width:0}
figure h3{margin:0 0 .3rem;font-size:1rem}svg{display:block;width:100%;height:auto}
.wide{overflow-x:auto;border:1px solid var(--grid);border-radius:.5rem;background:var(--card)}
table{border-collapse:collapse;font-size:.85rem;width:100%}th,td{padding:.3rem .6rem;text-align:right;white-space:nowrap}
th{position:sticky;top:0;background:var(--card);color:var(--muted);font-weight:600}td:first-child,th:first-child{text-align:left}
tr+tr td{border-top:1px solid var(--grid)}a{color:var(--series-0)}td.reason{white-space:normal;min-width:24rem;text-align:left}
.ok{color:var(--series-2)}.bad{color:var(--series-1)}code{font-size:.9em;overflow-wrap:anywhere}
"""


class TableCell(NamedTuple):
    """One cell of a table: its text, where it links to, and its class."""

    text: str
    link: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Page:
    """What a report says, in the order of the page."""

    title: str
    subtitle: str
    can: Sequence[str]
    cannot: Sequence[str]
    pictures: Sequence[tuple[Chart, str]]
    """Each with its SVG."""
    fit: Sequence[str]
    rules: Sequence[str]
    columns: Sequence[str]
    table: Sequence[Sequence[TableCell]]
    footer: str

    def to_html(self) -> str:
        """Return the page."""
        return "".join(self._parts())

    def _parts(self) -> Iterator[str]:
        yield '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        yield '<meta name="viewport" content="width=device-width,initial-scale=1"><meta name="color-scheme" content="light dark">'
        yield f"<title>{_text(self.title)}</title><style>{css()}{STYLE}</style></head><body>"
        yield f"<h1>{_text(self.title)}</h1><p class=muted>{_text(self.subtitle)}</p>"
        yield f"<h2>What can be concluded</h2>{_list(self.can)}"
        yield f"<h2>What cannot</h2>{_list(self.cannot)}"
        if self.pictures:
            yield '<h2>Pictures</h2><div class="pictures">'
            for picture, svg in self.pictures:
                yield f"<figure><h3>{_text(picture.title)}</h3>{svg}<figcaption>{_text(picture.caption)}</figcaption></figure>"
            yield "</div>"
        if self.fit:
            yield f"<h2>The fit</h2>{_list(self.fit)}"
        yield f"<h2>Runs</h2>{_table(self.columns, self.table)}"
        yield f"<h2>Rules</h2><p>Numbers of a cell that the study file does not set follow by these rules.</p>{_list(self.rules)}"
        yield f"<p class=muted>{_text(self.footer)}</p></body></html>\n"


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_text(line)}</li>" for line in lines) + "</ul>"


def _table(columns: Sequence[str], rows: Sequence[Sequence[TableCell]]) -> str:
    head = "".join(f"<th>{_text(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(_cell(cell) for cell in row) + "</tr>" for row in rows)
    frame = '<div class="wide" tabindex="0" role="region" aria-label="Runs">'
    return f"{frame}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(cell: TableCell) -> str:
    text = _text(cell.text)
    if cell.link:
        text = f'<a href="{html.escape(cell.link, quote=True)}">{text}</a>'
    return f'<td class="{cell.kind}">{text}</td>' if cell.kind else f"<td>{text}</td>"


def _text(value: Any) -> str:
    return html.escape(str(value), quote=False)
