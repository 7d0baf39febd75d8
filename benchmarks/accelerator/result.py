"""The results of checks, and the two files that contain them: check.json and check.md. Torch-free."""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from recipes.errors import ConfigError
from recipes.system.durable import write_text_atomically

OK, FAIL, CANNOT = "ok", "fail", "cannot run here"
"""Status of a row. ok: the result is right, or is a measurement. fail: the result is wrong. cannot run here: not measured; the row has the
reason."""
WHOLE = "the check itself"
"""The field `what` of a row that is about the check as a whole."""
LONGEST_NAME = 90
"""Maximum characters of a kernel's name in check.md. check.json has the full name."""
UPDATE_COLUMNS = {
    "ms": ("milliseconds", ".0f"),
    "ms the device is busy": ("busy_milliseconds", ".0f"),
    "kernels": ("kernel_calls", ".0f"),
    "copies": ("copies", ".0f"),
    "waits for the device": ("device_waits", ".1f"),
    "for a stream or event": ("stream_waits", ".1f"),
    "thousand tokens a second": ("thousand_tokens_per_second", ".0f"),
}


@dataclass(frozen=True)
class Row:
    """One finding of a check."""

    what: str
    status: str
    seen: str
    """The result in a few words, for the table."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """The full result, for programs."""


def unsupported_row(precision: str, what: str) -> Row:
    """Return a row that says that the device has no arithmetic of this precision. `what`: its title."""
    return Row(what, CANNOT, f"DeepSpeed has no {precision} on this device")


@dataclass
class Outcome:
    """A check that has run, with its rows. `seconds`: how long it took; `box_seconds`: its time limit."""

    name: str
    box_seconds: float
    rows: list[Row] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def status(self) -> str:
        """ "fail" if any row failed, else "ok" if any row is ok, else "cannot run here"."""
        found = {row.status for row in self.rows}
        return next((status for status in (FAIL, OK, CANNOT) if status in found), CANNOT)


def write_files(folder: Path, head: dict[str, Any], outcomes: Iterable[Outcome]) -> None:
    """Write check.json and check.md atomically into `folder`. `head`: facts on device and software. Raises: ConfigError if they cannot be
    written."""
    done = list(outcomes)
    content = head | {"summary": summary(done), "checks": [asdict(one) | {"status": one.status} for one in done]}
    try:
        write_text_atomically(folder / "check.json", as_json(content, indent=1) + "\n")
        write_text_atomically(folder / "check.md", markdown(head, done))
    except OSError as error:
        raise ConfigError(f"--out {folder}: {error.strerror}; name a folder that can be written") from None


def as_json(content: Any, **style: Any) -> str:
    """Return `content` as strict JSON: numbers that are not finite become strings. `style`: options of json.dumps."""
    return json.dumps(_finite(content), allow_nan=False, **style)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def summary(outcomes: Iterable[Outcome]) -> str:
    """Return how many rows are ok, failed and could not run, as a text."""
    counts = Counter(row.status for one in outcomes for row in one.rows)
    return f"{counts[OK]} rows ok, {counts[FAIL]} failed, {counts[CANNOT]} cannot run here"


def markdown(head: dict[str, Any], outcomes: list[Outcome]) -> str:
    """Return the text of check.md: device and software, a table of all rows, a table of the updates, and the slowest kernels."""
    facts = [f"- {name}: {value}" for name, value in head.items() if not isinstance(value, list | dict)]
    notes = [f"- **{note}**" for note in head.get("notes", [])]
    lines = [
        "# Accelerator check",
        "",
        *facts,
        *notes,
        f"- {summary(outcomes)}",
        "",
        "| check | what | status | seen |",
        "|---|---|---|---|",
    ]
    rows = [(one.name, row) for one in outcomes for row in one.rows]
    lines += [f"| {name} | {_cell(row.what)} | {row.status} | {_cell(row.seen)} |" for name, row in rows]
    traced = [(name, row) for name, row in rows if row.numbers.get("busy_milliseconds")]
    lines += _updates([row for _, row in traced])
    for name, row in traced:
        lines += _kernels(name, row)
    return "\n".join(lines) + "\n"


def _updates(rows: list[Row]) -> list[str]:
    """Return the lines of a Markdown table with the times and counts of each update that was traced on a device; [] without rows."""
    if not rows:
        return []
    head = ["", "### Updates: time, and per update what the profiler counts", "", f"| update | {' | '.join(UPDATE_COLUMNS)} |"]
    cells = [" | ".join(format(row.numbers[key], style) for key, style in UPDATE_COLUMNS.values()) for row in rows]
    return [
        *head,
        "|---" * (len(UPDATE_COLUMNS) + 1) + "|",
        *(f"| {_cell(row.what)} | {line} |" for row, line in zip(rows, cells, strict=True)),
    ]


def _kernels(name: str, row: Row) -> list[str]:
    head = [
        "",
        f"### {name}: {row.what}, the kernels that took longest",
        "",
        "| kernel | ms per update | calls per update |",
        "|---|---|---|",
    ]
    kernels = row.numbers["kernels"]
    return head + [f"| `{_cell(_short(one['name']))}` | {one['milliseconds']:.2f} | {one['calls']:.0f} |" for one in kernels]


def _short(kernel: str) -> str:
    """Return a kernel's name without the usual prefixes of torch, cut to LONGEST_NAME characters."""
    return kernel.removeprefix("void ").replace("at::native::", "").replace("(anonymous namespace)::", "")[:LONGEST_NAME]


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
