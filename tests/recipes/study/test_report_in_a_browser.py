"""Reports in a real browser: on a phone and on a desk, light and dark. Three studies: budgets with a law, ranks, an ablation."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest

from fit_coverage import minimum_inside, row_of
from recipes.study import bootstrap, isoflop
from recipes.study.log_sample import Row
from recipes.study.planned import MEMORY, STEP
from recipes.study.study_file import Study, read_study
from tests.made_up_study import made_up_study
from tests.recipes.study.test_report import curves_of, full_row, written_report

BROWSER = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"))), None)
PHONE, DESK = (390, 844), (1280, 900)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH")]
MEASURE = """
const color = (text) => { const c = document.createElement('canvas').getContext('2d'); c.fillStyle = text; c.fillRect(0, 0, 1, 1);
  return [...c.getImageData(0, 0, 1, 1).data]; };
const backdrop = (element) => { for (let one = element; one; one = one.parentElement) {
  const found = color(getComputedStyle(one).backgroundColor); if (found[3] === 255) return found; } return [255, 255, 255, 255]; };
const shown = (element) => { const box = element.getBoundingClientRect(); return box.width > 0 && box.height > 0; };
const found = {
  inner: innerWidth, scroll: document.documentElement.scrollWidth, body: document.body.scrollWidth,
  ink: getComputedStyle(document.documentElement).getPropertyValue('--ink'),
  rows: document.querySelectorAll('tbody tr').length, figures: document.querySelectorAll('figure').length,
  links: [...document.links].map((one) => one.getAttribute('href')),
  svgs: [...document.querySelectorAll('svg')].map((svg) => ({ title: svg.getAttribute('aria-label'),
    width: svg.getBoundingClientRect().width, right: svg.getBoundingClientRect().right,
    texts: [...svg.querySelectorAll('text')].filter(shown).map((one) => { const box = one.getBoundingClientRect(),
      frame = svg.getBoundingClientRect();
      return { text: one.textContent.trim(), height: box.height, fill: color(getComputedStyle(one).fill), on: backdrop(svg),
        inside: box.left >= frame.left - 1 && box.right <= frame.right + 1 && box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1 };
    }) })),
  texts: [...document.querySelectorAll('h1,h2,h3,p,li,figcaption,th,td,a')].filter(shown).map((one) => ({
    text: one.textContent.slice(0, 40), ink: color(getComputedStyle(one).color), on: backdrop(one) })),
};
const place = document.createElement('pre'); place.id = 'measured';
place.textContent = btoa(unescape(encodeURIComponent(JSON.stringify(found)))); document.body.append(place);
"""
"""Script that appends what a browser shows, as JSON in base64."""


def budgets(folder: Path) -> tuple[Study, list[Row]]:
    """Return a study with budgets whose law and minima are supported."""
    axes = {"size": [{"name": "32x2", "model.hidden_size": 32}], "flops": [3e12, 6e12, 1.2e13, 2.4e13]}
    _, rows = minimum_inside(np.random.default_rng(0), folder)  # writes a study file too, which the next line replaces
    study = read_study(made_up_study(folder, name="isoflop", axes=axes, metric="probe.cloze"))
    sizes = {size: f"{32 + 16 * place}x2" for place, size in enumerate(dict.fromkeys(row["block_parameters"] for row in rows))}
    names = [sizes[row["block_parameters"]] for row in rows]
    return study, [
        full_row(study, row, f"size-{name}_flops-{row['budget_flops']:.3g}") | {"axis.size": name}
        for name, row in zip(names, rows, strict=True)
    ]


def ranks(folder: Path) -> tuple[Study, list[Row]]:
    """Return a study of the throughput over ranks with two ds_configs."""
    axes = {"ranks": [1, 2, 4, 8, 16, 32], "deepspeed_config": ["zero3_bf16", "zero3_node_bf16"]}
    study = read_study(
        made_up_study(folder, name="strong", axes=axes, metric="tokens_per_second", fit={"where": {"deepspeed_config": "zero3_bf16"}})
    )
    rows = []
    for count in axes["ranks"]:
        for name, power in (("zero3_bf16", 0.85), ("zero3_node_bf16", 0.95)):
            rate = 21000.0 * int(count) ** power
            costs = {
                "ranks": count,
                "tokens_per_second": rate,
                "metric": rate,
                "step_seconds": 1e5 / rate,
                STEP: 1.1e5 / rate,
                "random_init": None,
            }
            axis = {"axis.ranks": count, "axis.deepspeed_config": name}
            rows.append(full_row(study, row_of(1e7, 1e7, 0.5, 1), f"ranks-{count}_deepspeed_config-{name}") | costs | axis)
    return study, rows


def changes(folder: Path) -> tuple[Study, list[Row]]:
    """Return an ablation of nine changes with three seeds, of which one run has failed."""
    names = ["base", "K 1", "K 2", "tau to 0.99", "tau 0.9999", "mask 0.15", "mask 0.5", "no norm over time", "no target norm"]
    axes = {"change": [{"name": name} for name in names]}
    study = read_study(
        made_up_study(folder, name="ablation_" + "of_everything_in_one_grid_" * 3, axes=axes, seeds=[1, 2, 3], metric="probe.cloze")
    )
    rows = [
        full_row(study, row_of(1e5, 1e7, 0.5 + 0.02 * place + 0.004 * seed, seed), f"change-{name.replace(' ', '-')}")
        | {"axis.change": name}
        for place, name in enumerate(names)
        for seed in (1, 2, 3)
    ]
    rows[5] |= {"state": "failed", "metric": None, "reason": "a <long> reason & more: " + "memory " * 20}
    return study, [row | {STEP: None, MEMORY: None} for row in rows]


STUDIES = {"budgets": (budgets, 5, 48), "ranks": (ranks, 3, 12), "changes": (changes, 2, 27)}
"""Name -> function that makes it, its number of pictures and of runs."""


@pytest.fixture(scope="module", params=list(STUDIES))
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The name of a study and its report."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "REPETITIONS", 40)
        patch.setattr(isoflop, "REPETITIONS", 40)
        study, rows = STUDIES[request.param][0](tmp_path_factory.mktemp(request.param))
        curves = [] if request.param == "ranks" else curves_of(rows)
        for row in rows:
            Path(row["run_dir"]).mkdir(parents=True, exist_ok=True)
        yield request.param, written_report(study, rows, curves)


def measured(path: Path, size: tuple[int, int], is_dark: bool) -> dict[str, Any]:
    """Return what the browser shows of a page at a size. Raises: AssertionError if a script of the page fails."""
    copy = path.with_name("measured.html")
    copy.write_text(path.read_text().replace("</body>", f"<script>{MEASURE}</script></body>"))
    flags = ["--no-sandbox", "--disable-gpu", "--dump-dom", "--virtual-time-budget=3000", "--enable-logging=stderr", "--v=0"]
    flags += [f"--window-size={size[0]},{size[1]}", f"--blink-settings=preferredColorScheme={0 if is_dark else 1}"]
    done = subprocess.run([str(BROWSER), *flags, copy.as_uri()], capture_output=True, text=True, timeout=60, check=True)
    assert "Uncaught" not in done.stderr and "ERROR:CONSOLE" not in done.stderr, done.stderr
    found = re.search(r'<pre id="measured">([^<]*)</pre>', done.stdout)
    assert found, done.stdout[-500:]
    content: dict[str, Any] = json.loads(base64.b64decode(found[1]))
    assert content["inner"] == size[0]
    return content


def contrast(first: list[int], second: list[int]) -> float:
    """Return the contrast of two colours (red, green, blue from 0 to 255). Source: WCAG 2.1, relative luminance."""

    def luminance(color: list[int]) -> float:
        parts = [value / 255 for value in color[:3]]
        linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_a_page_fits_its_window_and_all_text_can_be_read_in_light_and_dark(page: tuple[str, Path], size: tuple[int, int]) -> None:
    name, path = page
    _, num_figures, num_rows = STUDIES[name]
    found = {is_dark: measured(path, size, is_dark) for is_dark in (False, True)}
    assert found[False]["ink"].strip() != found[True]["ink"].strip()
    for is_dark, one in found.items():
        assert one["scroll"] <= one["inner"] and one["body"] <= one["inner"]
        assert (one["figures"], len(one["svgs"]), one["rows"]) == (num_figures, num_figures, num_rows), [
            svg["title"] for svg in one["svgs"]
        ]
        for svg in one["svgs"]:
            assert svg["width"] > 250 and svg["right"] <= one["inner"] and svg["texts"], svg["title"]
            assert [text["text"] for text in svg["texts"] if text["height"] < 7] == [], svg["title"]
            assert [text["text"] for text in svg["texts"] if not text["inside"]] == [], svg["title"]
            assert [text["text"] for text in svg["texts"] if contrast(text["fill"], text["on"]) < 4.5] == [], svg["title"]
        pale = {
            (text["text"], round(contrast(text["ink"], text["on"]), 2)) for text in one["texts"] if contrast(text["ink"], text["on"]) < 4.5
        }
        assert pale == set(), f"dark: {is_dark}"


def test_every_link_leads_to_a_folder(page: tuple[str, Path]) -> None:
    name, path = page
    links = measured(path, DESK, is_dark=False)["links"]
    assert len(links) == STUDIES[name][2] and all((path.parent / unquote(link)).is_dir() for link in links)
