"""`report.html` of a run: one file without scripts, fonts or pictures from elsewhere, made of the run's records.

`run_records.py` reads the records, `outcome.py` makes the first table, `charts.py` draws; `report_page.py` has the
page around them.
"""

import logging
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files.folders import write_text
from ..files.provenance import public_name
from ..files.run_names import REPORT_FILE
from ..files.strict_json import fits, is_int, is_number
from ..models.cost import kept_macs
from .charts import Line, line_chart, width_charts
from .outcome import held_out_metrics, is_share, measured_on, metric_label, outcome_line, outcome_rows, shown
from .report_page import code, folded, grid, html_table, page, paragraph, section
from .run_records import TABLES, RunRecords, read_records
from .runtimes import runtime_cells, runtime_rows

logger = logging.getLogger(__name__)

_NOT_SHOWN = ("output_dir", "token", "hub_token", "push_to_hub_token")
_EVAL, _KEPT = "eval_", "kept_fraction_"
_SNIPPET = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
_HERE = re.compile(r"^name = .*$", re.MULTILINE)
_MOST_CHARTS = 8
_MACS = "multiply–accumulates"
_MAIN_TERMS = {
    "loss_kl": "training: KL to the teacher",
    "loss_vectors": "training: distance of vectors",
    "loss_masked": "training: masked loss",
}


def write_report(folder: str | Path, student: str | Path | None = None, *, output: str | Path | None = None) -> Path:
    """Write the report of a run from its records; nothing is loaded or measured.

    Args:
        folder: `output_dir` of the run.
        student: the export that it made; default: the one inside.
        output: file to write; default: `report.html` in the run's folder.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: no records, or some that are no JSON.
        OSError: the file can't be written.
    """
    records = read_records(folder, student)
    file = _file_of(records, output)
    write_text(file, report_of(records))
    return file


def try_report(folder: str | Path, student: str | Path | None = None) -> None:
    """As [`write_report`], at the end of a run that has ended well: a page that can't be written is only warned of."""
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
    file = _file_of(records, output)
    return "; ".join(filter(None, (outcome_line(records.facts), str(file) if file.is_file() else "")))


def _file_of(records: RunRecords, output: str | Path | None) -> Path:
    return records.folder / REPORT_FILE if output is None else Path(output)


def report_of(records: RunRecords) -> str:
    """The text of the page."""
    title, summary = _title(records)
    won = outcome_line(records.facts)
    body = "".join(
        filter(
            None,
            (
                paragraph(summary),
                paragraph(won[:1].upper() + won[1:] + ".", look="won") if won else "",
                _first_table(records),
                _parts_table(records),
                *_further_tables(records),
                _runtimes(records.facts),
                section("Training", _curves(records)),
                section("Shape", _shape(records.facts)),
                section("How it was made", _how(records)),
                section("Next", _next(records)),
            ),
        )
    )
    return page(title, body)


def _title(records: RunRecords) -> tuple[str, str]:
    """Title and first paragraph of the student's card; else the name of the folder."""
    text = records.card.partition("\n# ")[2]
    title, _, rest = text.partition("\n")
    return (title or records.folder.resolve().name), rest.strip().partition("\n\n")[0].replace("\n", " ")


def _first_table(records: RunRecords) -> str:
    rows = outcome_rows(records.facts)
    if not rows:
        return ""
    own = "student" if "teacher" in records.facts else "model"
    # transposed twice, to leave out columns without any figure
    columns = zip(("", "teacher", own, "kept"), *(row[1:] for row in rows), strict=True)
    header, *cells = zip(*(column for column in columns if any(column[1:])), strict=True)
    table = html_table(header, cells)
    notes = [f"Quality: {measured_on(records.facts)}."]
    if machine := _mapping(records.facts, "latency").get("machine"):
        notes.append(f"Times: {machine}.")
    return section("What was won", table + paragraph(" ".join(notes), look="note"))


def _parts_table(records: RunRecords) -> str:
    """Sizes of a chain, rounds or stages: a row each, with the figures that are recorded of them."""
    found = {name: held_out_metrics(values) for name, values in _results_by_part(records).items()}
    names = list(dict.fromkeys(name for values in found.values() for name in values))
    if len(found) < 2 or not names:
        return ""
    rows = [[part, *(shown(values.get(name), name) for name in names)] for part, values in found.items()]
    return section("Step by step", html_table(["", *map(metric_label, names)], rows))


def _further_tables(records: RunRecords) -> Iterator[str]:
    """Those that a method has left in the results, such as the pairings of a space."""
    tables = records.results.get(TABLES)
    for table in tables if isinstance(tables, list) else ():
        if fits(table, {"title": str, "headings": [str], "rows": [[str]]}):
            yield section(table["title"], html_table(table["headings"], table["rows"]))


def _results_by_part(records: RunRecords) -> dict[str, Mapping[str, Any]]:
    results = records.results
    if "members" in results:  # a chain has its teacher first
        return {str(model.get("name")): model for model in results.get("models", ())}
    if isinstance(results.get("rounds"), list):
        shown_of = ("loss_masked", "loss_state", "eval_loss")
        return {
            f"round {number}": {name: values[name] for name in shown_of if name in values}
            for number, values in enumerate(results["rounds"])
        }
    return {name: values for name, values in results.items() if name == "float" or re.fullmatch(r"stage-\d+", name)}


def _runtimes(facts: Mapping[str, Any]) -> str:
    """What `homodistil deploy` has measured."""
    rows = runtime_rows(facts)
    return section("Runtimes", html_table(*runtime_cells(rows))) if rows else ""


def _curves(records: RunRecords) -> str:
    pictures = grid(_charts(records))
    has_level = 'class="level"' in pictures
    return pictures + (paragraph("Dashed: the teacher.", look="note") if has_level else "")


def _charts(records: RunRecords) -> list[str]:
    """Curves of the loss, of what is kept and of held-out metrics, of all parts of a run."""
    # a run with logs of its own is one line, else each of its parts is one
    runs = {part.folder.name: part for part in records.parts if part.logs} if not records.logs else {"": records}
    names = list(dict.fromkeys(name for run in runs.values() for name in run.names()))
    teacher = _mapping(records.facts, "teacher_evaluation")
    terms = {"loss": "training loss"} | {name: label for name, label in _MAIN_TERMS.items() if name in names}
    loss = [line_chart(label, _lines(runs, name)) for name, label in terms.items()]
    kept = _kept(records) if records.logs else {part: _kept(run).get(_MACS, ()) for part, run in runs.items()}
    title = "kept of what it started from" if records.logs else f"kept {_MACS}, of each start"
    found = [*loss[:1], line_chart(title, kept, is_share=True, top=1.0), *loss[1:]]
    held_out = held_out_metrics({name.removeprefix(_EVAL): 0.0 for name in names if name.startswith(_EVAL)})
    for name in sorted(held_out, key=lambda name: (name != "kl", not is_share(name))):
        # no level for KL, of which the teacher has 0
        level = teacher.get(name) if name != "kl" else None
        settings: dict[str, Any] = {"level": level if is_number(level) else None, "is_share": is_share(name)}
        found.append(line_chart(f"held out: {metric_label(name)}", _lines(runs, _EVAL + name), **settings))
    return list(filter(None, found))[:_MOST_CHARTS]


def _kept(run: RunRecords) -> dict[str, Line]:
    """Shares of the teacher's widths and multiply–accumulates along a run."""
    kinds = [name.removeprefix(_KEPT) for name in run.names() if name.startswith(_KEPT)]
    found = {kind: run.line(_KEPT + kind) for kind in kinds}
    teacher = _mapping(run.facts, "teacher")
    if {"hidden", "attention", "ffn"} <= found.keys() and fits(teacher, {"encoder_macs": int, "plan": dict}):
        # each log has all three, so their points are of the same steps
        shares = zip(*(found[kind] for kind in ("hidden", "attention", "ffn")), strict=False)
        found[_MACS] = [
            (hidden[0], kept_macs(teacher, hidden=hidden[1], attention=attention[1], ffn=ffn[1]))
            for hidden, attention, ffn in shares
        ]
    return found


def _lines(runs: Mapping[str, RunRecords], name: str) -> dict[str, Line]:
    return {part: run.line(name) for part, run in runs.items()}


def _shape(facts: Mapping[str, Any]) -> str:
    student, teacher = _mapping(facts, "student"), _mapping(facts, "teacher")
    sizes = [_mapping(section, "plan").get("hidden_size") for section in (student, teacher)]
    words = " of ".join(f"{size:,}" for size in sizes if is_int(size))
    pictures = grid(width_charts(student, teacher))
    note = f"Hidden channels: {words}." + (" Grey: the teacher." if teacher else "")
    return pictures + paragraph(note, look="note") if pictures else ""


def _how(records: RunRecords) -> str:
    facts = records.facts
    changed = _mapping(facts, "changed_settings") or records.settings
    training = _mapping(facts, "training")
    parts = []
    if how := _mapping(facts, "card").get("how"):
        parts.append(paragraph(str(how)))
    steps = training.get("num_steps") or records.results.get("num_steps")
    spent = records.results.get("time_s")
    figures = [f"{steps:,} optimizer steps" if is_number(steps) else "", f"{spent:,.0f} s" if is_number(spent) else ""]
    if any(figures):
        parts.append(paragraph(", ".join(filter(None, figures)) + "."))
    if changed:
        parts.append(section("Settings that differ from their defaults", _settings_table(changed), level=3))
    if every := _mapping(facts, "settings") or _mapping(records.results, "settings"):
        parts.append(folded(f"All {len(every)} settings", _settings_table(every)))
    versions = _mapping(facts, "versions") or _mapping(records.results, "versions")
    if versions:
        parts.append(paragraph("Written by " + ", ".join(f"{name} {of}" for name, of in versions.items()) + "."))
    return "".join(parts)


def _settings_table(settings: Mapping[str, Any]) -> str:
    rows = [(name, _value(value)) for name, value in settings.items() if name not in _NOT_SHOWN]
    return html_table(["setting", "value"], rows)


def _value(value: Any) -> str:
    """A setting in words, without folders of this machine: a report may be passed on."""
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    if isinstance(value, float):
        return f"{value:g}"
    return public_name(value) if isinstance(value, str) else str(value)


def _next(records: RunRecords) -> str:
    """Lines that use the student, and commands that go on with it."""
    if records.student is None:
        return ""
    folder = str(records.student)
    found = _SNIPPET.search(records.card)
    use = code(_HERE.sub(f"name = {folder!r}", found.group(1))) if found else ""
    return use + code("\n".join(_commands(shlex.quote(folder), records)))


def _commands(folder: str, records: RunRecords) -> Iterator[str]:
    if "format" in records.facts:
        yield f"homodistil verify {folder}"
        yield f"homodistil deploy {folder} --to onnx onnx-int8"
        yield f"homodistil push {folder} USER/NAME --dry_run"
        if records.facts["format"] == "standard":
            yield f"homodistil export {folder} --format compact --output {folder}-compact"
    else:
        yield f"homodistil distill --teacher {folder} --student macs=0.25 --train_data TEXT --output_dir OUTPUT"


def _mapping(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    return found if isinstance(found, Mapping) else {}
