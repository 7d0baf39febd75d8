"""The verb report: one file of HTML with its pictures, whose links, texts and size suit any study. Also made-up tables for other tests."""

import json
import os
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from fit_coverage import error_of, row_of
from recipes.errors import ConfigError
from recipes.study import bootstrap, isoflop
from recipes.study.collect import CURVES, TABLE, _parquet, _with_all_columns, _write
from recipes.study.command import build_parser
from recipes.study.fit import FIT
from recipes.study.log_sample import Row
from recipes.study.planned import MEASURE, MEMORY, STEP
from recipes.study.report import PICTURES, REPORT, write_report
from recipes.study.study_file import Study, read_study
from tests.made_up_study import made_up_study

AXES = {"model.hidden_size": [16, 32, 48, 64, 96, 128, 160, 192]}
BAD = "<b>&\"'"


@pytest.fixture(autouse=True)
def few_repetitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer repetitions, for seconds."""
    monkeypatch.setattr(bootstrap, "REPETITIONS", 20)
    monkeypatch.setattr(isoflop, "REPETITIONS", 20)


def full_row(study: Study, row: Row, cell: str, **changes: Any) -> Row:
    """Return a row as collect writes it, for a row with what a fit reads. Without axis.flops if it is None."""
    seconds = 0.01 + row["block_parameters"] / 1e8
    costs = {"parameters": round(row["block_parameters"] * 1.5), "step": 1000, "flops": 8 * row["block_parameters"] * row["tokens"]}
    costs |= {
        "tokens_per_second": 1e4 / seconds,
        "step_seconds": seconds,
        "peak_memory_bytes": 2**30,
        "goodput": 0.9,
        "wall_seconds": 720.0,
    }
    plans = {STEP: 1.05 * seconds, MEMORY: 1.1 * 2**30, MEASURE: False, "random_init": 0.2, "batch": 8}
    place = {"cell": cell, "run_dir": str(study.cells_folder / cell / f"seed_{row['seed']}")}
    found = {key: value for key, value in row.items() if key != "axis.flops" or value is not None}
    return found | costs | plans | place | changes


def size_table(study: Study) -> list[Row]:
    """Return the rows of a study of the size: 8 cells with two seeds, which follow a law with a little noise."""
    return [
        full_row(study, row_of(size, 1e7, error_of(size, 1e7) * (1 + 0.002 * ((place * 5 + seed * 3) % 7 - 3)), seed), f"size-{width}")
        | {"axis.hidden_size": width}
        for place, width in enumerate(AXES["model.hidden_size"])
        for size in [1e5 * (width / 16) ** 2]
        for seed in (1, 2)
    ]


def curves_of(rows: Sequence[Row], num_points: int = 4) -> list[Row]:
    """Return curves of the probe for these rows."""
    return [
        {
            "cell": row["cell"],
            "seed": row["seed"],
            "step": place,
            "tokens": 1e3 * place,
            "loss": 3.0 / place,
            "probe": 0.8 * place / num_points,
        }
        for row in rows
        for place in range(1, num_points + 1)
    ]


def written_report(study: Study, rows: Sequence[Row], curves: Sequence[Row]) -> Path:
    """Write the files that collect writes, then the report by its verb, and return its path."""
    study.out.mkdir(parents=True, exist_ok=True)
    _write(study.out / TABLE, _parquet(_with_all_columns(rows)))
    _write(study.out / CURVES, _parquet(_with_all_columns(curves)))
    args = build_parser("").parse_args(["report", str(study.path)])
    assert args.run(args, lambda line: None) == 0
    return study.out / REPORT


def report_of(folder: Path, change: Callable[[list[Row]], None] = lambda rows: None, **keys: Any) -> str:
    """Return the HTML for a study of the size, with the picture of its law alone. `change`: applied to its rows."""
    study = read_study(made_up_study(folder, **{"axes": AXES, **keys}))
    rows = [row | {STEP: None, MEMORY: None} for row in size_table(study)]
    change(rows)
    return written_report(study, rows, []).read_text()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with all pictures that a study of the size has. Do not change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "REPETITIONS", 20)
        study = read_study(made_up_study(tmp_path_factory.mktemp("whole"), axes=AXES))
        rows = size_table(study)
        return written_report(study, rows, curves_of(rows))


def bare(html: str) -> str:
    """Return the page without its pictures."""
    return re.sub(r"<svg.*?</svg>", "", html, flags=re.S)


class Reader(HTMLParser):
    """Reads tags, and asserts that they are closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element."""
        self.seen.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember an element that closes itself."""
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close an element."""
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"


def test_a_report_is_one_well_formed_file_that_loads_nothing(whole: Path) -> None:
    html = whole.read_text()
    found = Reader(html)
    assert not {tag for tag, _ in found.seen} & {"link", "script", "img", "image", "iframe", "object", "embed"}
    assert not any(name in ("src", "srcset") or name.startswith("on") for _, attributes in found.seen for name in attributes)
    assert all(
        value and value.startswith("#") for _, attributes in found.seen for name, value in attributes.items() if name == "xlink:href"
    )
    assert "@import" not in html and all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", html))
    assert set(re.findall(r"https?://[^\"' <)]+", html)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}, "names of XML"
    ids = [attributes["id"] for _, attributes in found.seen if attributes.get("id")]
    assert len(ids) == len(set(ids))


def test_every_picture_is_in_the_page_and_a_png(whole: Path) -> None:
    html = whole.read_text()
    assert sorted(path.name for path in (whole.parent / PICTURES).iterdir()) == ["curves.png", "law.png", "plan.png"]
    assert html.count("<svg ") == html.count("<figure>") == html.count("<figcaption>") == 3
    assert html.count("<tr>") == 1 + 16


def test_links_lead_from_the_page_to_the_run_dirs_whatever_their_names_are(tmp_path: Path) -> None:
    strange = "a b&c<d>\"'#?%é"

    def change(rows: list[Row]) -> None:
        rows[0]["cell"], rows[0]["run_dir"] = strange, str(tmp_path / "out" / "cells" / strange / "seed_1")

    (tmp_path / "out" / "cells" / strange / "seed_1").mkdir(parents=True)
    html = report_of(tmp_path, change, metric="loss")
    links = [attributes["href"] or "" for tag, attributes in Reader(html).seen if tag == "a"]
    assert len(links) == 16 and all(re.fullmatch(r"cells/[A-Za-z0-9%._~-]+/seed_[12]/", link) for link in links), links[0]
    assert (tmp_path / "out" / unquote(links[0])).is_dir()


def test_a_study_whose_folder_was_moved_has_links_inside_of_it(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        for row in rows:
            row["run_dir"] = row["run_dir"].replace(str(tmp_path), "/elsewhere/before")

    links = [attributes["href"] or "" for tag, attributes in Reader(report_of(tmp_path, change, metric="loss")).seen if tag == "a"]
    assert links[0] == "cells/size-16/seed_1/"


def test_names_reasons_and_metrics_are_escaped(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        rows[3] |= {"state": "failed", "metric": None, "reason": BAD}
        rows[4] |= {"cell": BAD, "axis.hidden_size": BAD}
        rows[5] |= {"cell": BAD}

    html = report_of(tmp_path, change)
    assert "<b>" not in html and bare(html).count("&lt;b&gt;&amp;\"'") >= 3
    Reader(html)


def test_two_hundred_cells_make_a_page_below_a_megabyte(tmp_path: Path) -> None:
    study = read_study(made_up_study(tmp_path, axes=AXES, seeds=[1, 2, 3], metric="explained_variance"))
    rows = [
        full_row(study, row_of(1e5 * (1 + n), 1e7, error_of(1e5 * (1 + n), 1e7), seed), f"hidden_size-{n}") | {"axis.hidden_size": n}
        for n in range(200)
        for seed in (1, 2, 3)
    ]
    path = written_report(study, rows, curves_of(rows, 20))
    assert path.stat().st_size < 1_000_000 and path.read_text().count("<tr>") == 601


def test_the_sentences_follow_from_the_numbers(tmp_path: Path, whole: Path) -> None:
    def change(rows: list[Row]) -> None:
        rows[0] |= {"state": "failed", "metric": None, "reason": "no memory"}

    before, after = whole.read_text(), report_of(tmp_path, change)
    assert "16 of 16 runs have a value" in before and "15 of 16 runs have a value" in after
    assert "failed" not in before and "no memory" in after and "1 failed" in after


def test_the_table_is_fitted_first(whole: Path) -> None:
    html, fit = whole.read_text(), json.loads((whole.parent / FIT).read_text())
    assert fit["supported"] and "law: E + A_block_parameters" in html and "The error (1 - probe) falls with" in html


def test_a_fit_that_is_newer_than_the_table_is_kept_and_an_older_one_is_made_anew(tmp_path: Path) -> None:
    report_of(tmp_path)
    study = read_study(tmp_path / "study.json")
    fit = json.loads((study.out / FIT).read_text())
    (study.out / FIT).write_text(json.dumps({**fit, "law": None, "held_out": [], "quantity": "of now"}))
    assert "of now of 16 runs" in write_report(study, [], size_table(study), []).read_text()
    os.utime(study.out / FIT, (1, 1))
    assert "of now" not in write_report(study, [], size_table(study), []).read_text()


@pytest.mark.parametrize(("fit", "shown"), [({"size": "parameters"}, "over parameters"), ({"held_out": False}, "8 cells without")])
def test_a_change_of_fit_in_the_study_file_is_followed_by_the_report(tmp_path: Path, fit: dict[str, Any], shown: str) -> None:
    """The fit.json of before describes other points than those that the pictures would draw."""
    assert shown not in report_of(tmp_path)
    study = read_study(made_up_study(tmp_path, axes=AXES, fit=fit))
    assert shown in write_report(study, [], size_table(study), []).read_text()


def test_data_that_support_no_law_still_have_a_page_that_says_so(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        del rows[6:]

    html = report_of(tmp_path, change)
    assert "So no law is claimed." in html and "test points: FAILED" in html and "falls with" not in html


def test_a_metric_that_cannot_be_fitted_has_a_page_with_the_reason_and_no_fit(tmp_path: Path) -> None:
    html = report_of(tmp_path, metric="explained_variance")
    assert "There is no fit: " in html and "cannot be fitted" in html and "<h2>The fit</h2>" not in html
    assert not (tmp_path / "out" / FIT).exists()


def test_a_study_of_which_nothing_is_done_has_a_page(tmp_path: Path) -> None:
    def change(rows: list[Row]) -> None:
        for row in rows:
            row |= {"state": "running", **dict.fromkeys(("metric", "tokens", "tokens_per_second", "step_seconds", STEP, MEMORY, "flops"))}

    html = report_of(tmp_path, change)
    assert "0 of 16 runs have a value" in html and "none of 16 runs can be fitted" in html


def test_without_a_table_the_verb_names_collect(tmp_path: Path) -> None:
    args = build_parser("").parse_args(["report", str(made_up_study(tmp_path))])
    with pytest.raises(ConfigError, match=r"there is no .*table\.parquet; first: .* collect"):
        args.run(args, print)


def test_a_page_that_cannot_be_written_is_an_error_that_the_user_can_fix(tmp_path: Path) -> None:
    (tmp_path / "out" / REPORT / "in the way").mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"report\.html cannot be written \(Is a directory\)"):
        report_of(tmp_path, metric="loss")
