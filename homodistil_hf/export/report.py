"""`report.html` of a run: one file without scripts, fonts or pictures from elsewhere, made of the run's records.

A run writes settings, results, logs and the facts of its student into its folder; nothing is loaded here. A chain of
sizes, rounds and stages have a folder each in that of the run, which may lack some records. `outcome.py` makes the
first table, `report.css` has the looks of page and pictures.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from ..files.checkpoints import sorted_checkpoints
from ..files.folders import write_text
from ..files.provenance import public_name
from ..files.run_names import (
    MODEL_FOLDERS,
    PART,
    REPORT_FILE,
    RESULTS_FILE,
    SETTINGS_FILE,
    STATE_OF_TRAINER,
    STUDENT_FOLDER,
    TABLES,
    run_of_model,
)
from ..files.strict_json import fits, is_int, is_number, read_json
from ..tasks.kinds import IS_CONSTANT
from .facts import CARD_FILE, DATA, FACTS_FILE, NOT_DEPLOYED, section_of
from .outcome import (
    WIDTHS,
    held_out_metrics,
    is_share,
    measured_on,
    metric_label,
    outcome_line,
    outcome_rows,
    runtime_cells,
    runtime_rows,
    shown,
    size_cells,
    widths_in,
)

logger = logging.getLogger(__name__)

Line = Sequence[tuple[float, float]]
"""Points (step, value)."""

NUM_COLOURS = 6
_WIDTH, _HEIGHT = 360, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 12, 30, 34
_LEGEND_HEIGHT = 16
_NOT_SHOWN = ("output_dir", "token", "hub_token", "push_to_hub_token")
_EVAL, _KEPT = "eval_", "kept_fraction_"
_SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HERE = re.compile(r"^name = .*$", re.MULTILINE)
_MOST_CHARTS, _MOST_POINTS = 8, 400
_CODE = re.compile(r"(`+) ?(.+?) ?\1")


def write_report(folder: str | Path, student: str | Path | None = None, *, output: str | Path | None = None) -> Path:
    """Write the report of a run from its records; nothing is loaded or measured.

    By default `student`, the export, is the one inside of the run's `folder`, and so is `output`, `report.html`.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: no records, or some that are no JSON.
        OSError: the file can't be written.
    """
    records = read_records(folder, student)
    file = records.folder / REPORT_FILE if output is None else Path(output)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, report_of(records))
    return file


def try_report(folder: str | Path, student: str | Path | None = None) -> None:
    """Like [`write_report`], at the end of a run: a page that can't be written is only warned of."""
    try:
        write_report(folder, student)
    except (OSError, ValueError) as error:
        logger.warning("no %s was written: %s", REPORT_FILE, error)


def closing_line(folder: str | Path, student: str | Path | None = None, *, output: str | Path | None = None) -> str:
    """The last line of a run: what was won, and where its report is; arguments as [`write_report`].

    It is empty where the records can't be read, of which [`try_report`] has warned.
    """
    try:
        records = read_records(folder, student)
    except (OSError, ValueError):
        return ""
    file = records.folder / REPORT_FILE if output is None else Path(output)
    return "; ".join(filter(None, (outcome_line(records.facts), str(file) if file.is_file() else "")))


def report_of(records: RunRecords) -> str:
    """The text of the page."""
    # title and first paragraph of the student's card; else the name of the folder
    title, _, rest = records.card.partition("\n# ")[2].partition("\n")
    summary = rest.strip().partition("\n\n")[0].replace("\n", " ")
    won, rows = outcome_line(records.facts), outcome_rows(records.facts)
    first = _html_table(("", "model"), [(row.label, row.student) for row in rows])
    if "teacher" in records.facts:
        first = _html_table(("", "teacher", "student", "kept"), [row[1:] for row in rows])
    tables, sizes = records.results.get(TABLES), size_cells(records.facts)
    runtimes = runtime_rows(records.facts)
    charts = "".join(f"<div>{picture}</div>\n" for picture in _charts(records))
    # beside each other, as many as the screen has room for
    curves = f'<div class="grid">\n{charts}</div>' if charts else ""
    shapes = ""
    for name in ("student", "teacher"):
        words, layers = widths_in(section_of(records.facts, name))
        shapes += _paragraph(f"{name.capitalize()}: {words}" if words else "")
        shapes += _html_table(["layer", *WIDTHS.values()], layers) if layers else ""
    parts = [
        _paragraph(summary),
        _paragraph(f"{won[0].upper()}{won[1:]}.", look="won") if won else "",
        _section("What was won", first + _paragraph(measured_on(records.facts), look="note")) if rows else "",
        _section("Sizes in this folder", _html_table(sizes[0], sizes[1:])) if sizes else "",
        _parts_table(records),
        # those that a method has left in the results, such as the pairings of a space
        *(
            _section(table["title"], _html_table(table["headings"], table["rows"]))
            for table in (tables if isinstance(tables, list) else ())
            if fits(table, {"title": str, "headings": [str], "rows": [[str]]})
        ),
        # what `homodistil deploy` has measured
        _section("Runtimes", _html_table(*runtime_cells(runtimes))) if runtimes else "",
        _section("Training", curves + _paragraph("Dashed: the teacher." * ('class="level"' in curves), look="note")),
        _section("Shape", shapes),
        _section("How it was made", _how(records)),
        _section("Next", _next(records)),
    ]
    heading = escape(title or records.folder.resolve().name)
    style = resources.files(__package__).joinpath("report.css").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{heading}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<h1>{heading}</h1>\n{''.join(parts)}</body>\n</html>\n"
    )


def _parts_table(records: RunRecords) -> str:
    """The models of a chain, its teacher first: a row each, with their held-out figures."""
    models = records.results.get("models", ()) if "members" in records.results else ()
    metrics = {str(model.get("name")): held_out_metrics(model) for model in models}
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    rows = [
        [part, *(shown(of_part.get(name), name, beside=names) for name in names)] for part, of_part in metrics.items()
    ]
    return _section("Step by step", _html_table(["", *map(metric_label, names)], rows) if names else "")


def _charts(records: RunRecords) -> list[str]:
    """Curves of the loss, of what is kept and of held-out metrics, of all parts of a run."""
    # a run with logs of its own is one line, else each of its parts is one
    runs = {part.folder.name: part for part in records.parts if part.logs} if not records.logs else {"": records}
    names = list(dict.fromkeys(name for run in runs.values() for name in run.names()))
    teacher = section_of(records.facts, "teacher_evaluation")
    kept = {name.removeprefix(_KEPT): records.line(name) for name in records.names() if name.startswith(_KEPT)}
    charts = [
        line_chart("training loss", _lines(runs, "loss")),
        line_chart("kept of what it started from", kept, is_share=True),
    ]
    lines_of = {name.removeprefix(_EVAL): _lines(runs, name) for name in names if name.startswith(_EVAL)}
    # by their last values, as in the table
    ends = {name: line[-1][1] for name, lines in lines_of.items() for line in lines.values() if line}
    held_out = held_out_metrics(ends)
    for name in sorted(held_out, key=lambda name: (name != "kl", not is_share(name))):
        # no level for KL, of which the teacher has 0
        level = teacher.get(name) if name != "kl" and is_number(teacher.get(name)) else None
        title = f"held out: {metric_label(name)}"
        charts.append(line_chart(title, lines_of[name], level=level, is_share=is_share(name)))
    return list(filter(None, charts))[:_MOST_CHARTS]


def _lines(runs: Mapping[str, RunRecords], name: str) -> dict[str, Line]:
    return {part: run.line(name) for part, run in runs.items()}


def _how(records: RunRecords) -> str:
    facts = records.facts
    changed = section_of(facts, "changed_settings") or records.settings
    training = section_of(facts, "training")
    parts = []
    if how := section_of(facts, "card").get("how"):
        parts.append(_paragraph(str(how)))
    steps = training.get("num_steps") or records.results.get("num_steps")
    spent = records.results.get("time_s")
    figures = [f"{steps:,} optimizer steps" if is_number(steps) else "", f"{spent:,.0f} s" if is_number(spent) else ""]
    if any(figures):
        parts.append(_paragraph(", ".join(filter(None, figures)) + "."))
    if changed := {name: value for name, value in changed.items() if value not in (None, "", [], {})}:
        rows = [(name, _value(value)) for name, value in changed.items() if name not in _NOT_SHOWN]
        table = _html_table(["setting", "value"], rows)
        parts.append(_section("Settings that differ from their defaults", table, level=3))
    versions = section_of(facts, "versions") or section_of(records.results, "versions")
    if versions:
        parts.append(_paragraph("Written by " + ", ".join(f"{name} {of}" for name, of in versions.items()) + "."))
    return "".join(parts)


def _value(value: Any) -> str:
    """A setting in words, without folders of this machine: a report may be passed on."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, float):
        return f"{value:g}"
    return public_name(value) if isinstance(value, str) else str(value)


def _next(records: RunRecords) -> str:
    if records.student is None:
        return ""
    snippet = _SNIPPET.search(records.card)
    use = _code(_HERE.sub(lambda _: f"name = {str(records.student)!r}", snippet[1])) if snippet else ""
    folder, format = shlex.quote(str(records.student)), records.facts.get("format")
    commands = [f"homodistil distill --teacher {folder} --student macs=0.25 --train_data TEXT --output_dir OUTPUT"]
    if "format" in records.facts:
        commands = [
            f"homodistil verify {folder}",
            *([f"homodistil deploy {folder} --to onnx onnx-int8"] * (format not in NOT_DEPLOYED)),
            f"homodistil push {folder} USER/NAME --dry_run",
            *([f"homodistil export {folder} --format compact --output {folder}-compact"] * (format == "standard")),
        ]
    return use + _code("\n".join(commands))


# Records


@dataclass(frozen=True)
class RunRecords:
    """The records of one run.

    Args:
        folder: of the run.
        student: folder of what it has made; None where there is none.
        settings: as they were given.
        results: content of `results.json`.
        facts: of the student.
        logs: Trainer's, entry by entry.
        parts: of the members of a chain, of rounds or stages, in order.
    """

    folder: Path
    student: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    results: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    logs: tuple[Mapping[str, Any], ...] = ()
    parts: tuple[RunRecords, ...] = ()

    @property
    def card(self) -> str:
        """Text of the student's card; empty where there is none."""
        file = None if self.student is None else self.student / CARD_FILE
        return file.read_text(encoding="utf-8", errors="replace") if file and file.is_file() else ""

    def line(self, name: str) -> Line:
        """The values of a log by step, without those that are no finite numbers; a long one is thinned."""
        values = {entry["step"]: entry[name] for entry in self.logs if is_int(entry.get("step")) and name in entry}
        points = sorted(
            (step, float(value)) for step, value in values.items() if is_number(value) and abs(value) < math.inf
        )
        # from the last one backwards, so that a run's end is shown
        return points[:: -max(1, len(points) // _MOST_POINTS)][::-1]

    def names(self) -> list[str]:
        """The names of all values in the logs, each once."""
        return list(dict.fromkeys(name for entry in self.logs for name in entry))


def read_records(folder: str | Path, student: str | Path | None = None) -> RunRecords:
    """Read the records of a run.

    By default `student`, the export, is the one inside of the run's `folder`.

    Raises:
        ValueError: no such folder, no records in it, or a file of settings, results or facts that is no JSON.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"folder={str(folder)!r} does not exist; name the output_dir of a run")
    # an export inside a run stands for the run
    if (place / FACTS_FILE).is_file():
        place = run_of_model(place) or place
    records = _read(place, None if student is None else Path(student))
    if not (records.results or records.facts or records.logs or any(part.logs for part in records.parts)):
        raise ValueError(
            f"folder={str(folder)!r} holds no records of a run ({RESULTS_FILE}, {STUDENT_FOLDER}/{FACTS_FILE}, "
            f"{STATE_OF_TRAINER}); name the output_dir of a run that has ended"
        )
    return records


def _read(folder: Path, student: Path | None = None) -> RunRecords:
    names = [path.name for path in folder.iterdir() if path.is_dir() and PART.fullmatch(path.name)]
    # by their number: 2-… before 10-…, round-2 before round-10
    parts = (_read(folder / name) for name in sorted(names, key=lambda name: int(re.findall(r"\d+", name)[0])))
    parts_with_records = tuple(part for part in parts if part.logs or part.facts)
    if student is not None and not (student / FACTS_FILE).is_file():
        raise ValueError(f"student={str(student)!r} has no {FACTS_FILE}; name the export of the run")
    if student is None:
        student = next((folder / name for name in MODEL_FOLDERS if (folder / name).is_dir()), None)
    if student is None and parts_with_records:
        student = parts_with_records[-1].student
    results = _object(folder / RESULTS_FILE)
    facts = {} if student is None else _object(student / FACTS_FILE)
    # of a run that was stopped Trainer's state is in its last checkpoint
    states = [place / STATE_OF_TRAINER for place in (folder, *sorted_checkpoints(folder)[:1])]
    logs: tuple[Mapping[str, Any], ...] = ()
    # leniently: Trainer writes NaN among the logs, such as the norm of a step that was skipped
    with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
        state = next(filter(Path.is_file, states), states[0])
        history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
        logs = tuple(entry for entry in history if isinstance(entry, dict))
    return RunRecords(
        folder,
        student,
        settings=_object(folder / SETTINGS_FILE),
        results=results,
        facts=facts or _facts_of_fine_tuning(results),
        logs=logs,
        parts=parts_with_records,
    )


def _facts_of_fine_tuning(results: Mapping[str, Any]) -> dict[str, Any]:
    """What `homodistil finetune` has measured, in the sections that an export's facts have; nothing of other runs."""
    if not fits(results, {"metrics": dict, "model": dict, "settings": dict, "num_eval_rows": int}):
        return {}
    rows = Path(str(results["settings"].get("eval_data"))).name
    sections = {
        "evaluation": results["metrics"] | ({IS_CONSTANT: True} if results.get(IS_CONSTANT) else {}),
        "teacher_evaluation": results.get("teacher_metrics"),
        "student": results["model"],
        "teacher": results.get("teacher"),
        DATA: {"num_held_out_rows": results["num_eval_rows"], "held_out": [rows]},
    }
    return {name: section for name, section in sections.items() if section is not None}


def _object(file: Path) -> dict[str, Any]:
    """The object in a file; empty where there is none, as in the list of models that `homodistil demo` leaves."""
    values = read_json(file, str(file)) if file.is_file() else {}
    return values if isinstance(values, dict) else {}


# Parts of the page: plain HTML, light and dark, for screens of any width; texts are escaped


def _section(heading: str, body: str, *, level: int = 2) -> str:
    return f"<h{level}>{escape(heading)}</h{level}>\n{body}\n" if body else ""


def _paragraph(text: str, *, look: str = "") -> str:
    """A paragraph of text, whose words in backticks are shown as code."""
    # Cards escape what Markdown would take for HTML.
    words = _CODE.sub(r"<code>\2</code>", escape(text.replace("&lt;", "<"), quote=False))
    return f"<p{f' class={look}' if look else ''}>{words}</p>\n" if text else ""


def _html_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that scrolls inside itself; the first column is on the left, numbers are on the right."""
    head = "".join(f"<th>{escape(str(cell))}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>\n" for row in rows)
    look = ' class="words"' if len(header) == 2 else ""
    return f'<div class="wide"><table{look}>\n<tr>{head}</tr>\n{body}</table></div>\n'


def _code(text: str) -> str:
    return f"<pre><code>{escape(text.strip())}</code></pre>\n" if text.strip() else ""


# Pictures as SVG text, without scripts and fonts, with colours for light and dark screens


def line_chart(
    title: str,
    lines: Mapping[str, Line],
    *,
    level: float | None = None,
    is_share: bool = False,
) -> str:
    """Draw lines over the steps of a run; empty where no line has two points.

    Args:
        title: above the picture.
        lines: name → points by step. Names are shown where there are several.
        level: a dashed line, the teacher's value.
        is_share: whether values are of [0, 1] and shown as percent, from 0 on.

    Returns:
        `str`: an `svg` element.
    """
    lines = {name: points for name, points in lines.items() if points}
    if all(len(points) < 2 for points in lines.values()):
        return ""
    values = [value for points in lines.values() for _, value in points]
    low, high = _span(values if level is None else [*values, level], is_share=is_share)
    last = max(step for points in lines.values() for step, _ in points) or 1.0
    height = _HEIGHT + _LEGEND_HEIGHT * (math.ceil(len(lines) / 2) if len(lines) > 1 else 0)

    def place(step: float, value: float) -> str:
        x = _LEFT + (_WIDTH - _LEFT - _RIGHT) * step / last
        # SVG counts downwards from the top
        return f"{x:.1f},{_HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - low) / (high - low):.1f}"

    parts = [f'<text class="title" x="0" y="14">{escape(title)}</text>']
    for mark in _marks(low, high):
        start, end = place(0, mark), place(last, mark)
        words = f"{100 * mark:.4g} %" if is_share else f"{mark:.4g}"
        x, y = start.split(",")
        parts.append(f'<path class="grid" d="M{start}L{end}"/>')
        parts.append(f'<text x="{float(x) - 5:.1f}" y="{float(y) + 4:.1f}" text-anchor="end">{words}</text>')
    for step, anchor in ((0, "start"), (last, "end")):
        x = place(step, low).split(",")[0]
        words = f"{step:,.0f}" if step else "step 0"
        parts.append(f'<text x="{x}" y="{_HEIGHT - 14}" text-anchor="{anchor}">{words}</text>')
    if level is not None:
        parts.append(f'<path class="level" d="M{place(0, level)}L{place(last, level)}"/>')
    legend = []
    for index, (name, points) in enumerate(lines.items()):
        colour = f"var(--c{index % NUM_COLOURS})"
        places = [place(step, value) for step, value in points]
        x, y = places[0].split(",")
        point = f'<circle cx="{x}" cy="{y}" r="3" style="fill:{colour}"/>'
        line = f'<path class="line" style="stroke:{colour}" d="M{"L".join(places)}"/>'
        parts.append(line if len(places) > 1 else point)
        # names stand below the picture, two in a row
        left, top = (index % 2) * _WIDTH / 2, _HEIGHT + 2 + _LEGEND_HEIGHT * (index // 2)
        legend.append(f'<rect x="{left:.0f}" y="{top - 3:.0f}" width="12" height="4" style="fill:{colour}"/>')
        legend.append(f'<text x="{left + 18:.0f}" y="{top + 4:.0f}">{escape(name)}</text>')
    box = f'xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    content = "".join([*parts, *(legend if len(lines) > 1 else ())])
    return f'<svg {box} role="img" aria-label="{escape(title, quote=True)}">{content}</svg>'


def _span(values: Sequence[float], *, is_share: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if is_share:
        return min(0.0, low), max(high, low + 0.01)
    # a level line gets some height, too
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return (0.0 if 0 <= low < 0.5 * high else low - margin), high + margin


def _marks(low: float, high: float) -> list[float]:
    """Three to six round values between the ends."""
    # 1 ≤ (high - low) / unit < 10: the smallest round part of the unit that leaves few marks
    unit = 10 ** math.floor(math.log10(high - low))
    step = next(part * unit for part in (0.2, 0.25, 0.5, 1, 2) if (high - low) / (part * unit) <= 5.5)
    first = math.ceil(low / step - 1e-9)
    return [step * index for index in range(first, math.floor(high / step + 1e-9) + 1)]
