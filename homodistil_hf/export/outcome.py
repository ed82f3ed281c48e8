"""What a run has won: rows teacher / student / kept, and one line, of the facts of an export of any kind.

`card.py` and `report.py` show the rows, the command line ends with the line.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any, NamedTuple

from ..files.strict_json import fits, is_int, is_number
from ..tables import FIGURE_NAMES, table_cells
from ..tasks.kinds import IS_CONSTANT
from .facts import BENCHMARKS, DATA, LATENCY, SIZES, section_of

# The first that a run has is named: an answerer's accuracy counts its first and last tokens one by one.
_NAMED_FIRST = (
    *("span_f1", "accuracy", "mlm_accuracy", "f1", "task_accuracy", "ndcg_at_10", "micro_f1", "spearman"),
    "correlation",
)
_HIGHER_IS_BETTER = (
    *("accuracy", "f1", "precision", "recall", "exact", "exact_rows", "exact_match", "pearson", "spearman"),
    *("spearmanr", "correlation", "auc", "agreement", "neighbours", "neighbours_in_index", "cosine"),
    *("ndcg", "mrr", "map", "ndcg_at_10", "mrr_at_10"),
)
TIMINGS = ("runtime", "per_second", "preparation_time")
"""How names end that Trainer puts among the metrics of an evaluation, and that are none."""
_OF_ONE_AT_MOST = ("cosine", "neighbours", "neighbours_in_index", "agreement", "correlation")
"""Metrics that compare with the teacher, which has 1 of each."""
_FEW_ROWS = 500
"""Below so many held-out rows a share is named with their number."""
_LABELLED = "num_labelled_eval_rows"
"""Key of the number of held-out rows that metrics of labels are of; without it all are."""


RUNTIMES = "runtimes"
BATCH_SIZES = (1, 32)
"""Texts of a pass that is timed."""
_ROW: dict[str, Any] = {
    "target": str,
    "file": str,
    "runtime": str,
    "size_bytes": int,
    "is_written": bool,
    "fidelity_name": str,
    "figures": {...: int | float},
    "latency_ms": {...: {...: int | float}},
    "not_run": str,
}
_HEADER = ("file", "run by", "MB", "as the student", "largest difference")


WIDTHS = {
    "num_attention_heads": "heads",
    "head_dim": "channels a head",
    "intermediate_size": "FFN neurons",
}
"""Width of a layer → words for it."""


class Row(NamedTuple):
    """A row of the first table, in words; empty where nothing is known.

    Args:
        name: of the cost or metric in facts.
        label: the same for readers.
        teacher: its figure.
        student: its figure.
        kept: `3.6× smaller`, or the share of the teacher's figure that is left.
    """

    name: str
    label: str
    teacher: str
    student: str
    kept: str


def size_cells(facts: Mapping[str, Any]) -> list[list[str]]:
    """Headings and a row a size of a nested student, by its facts; empty for a student of one size."""
    sizes = section_of(facts, SIZES)
    return (
        table_cells([{"name": name, **row} for name, row in sizes.items()])
        if fits(sizes, {...: dict}) and sizes
        else []
    )


def outcome_rows(facts: Mapping[str, Any]) -> list[Row]:
    """The rows of costs, latency and held-out metrics, of facts with any of these sections."""
    rows = []
    teacher, student = section_of(facts, "teacher"), section_of(facts, "student")
    for name in ("size_bytes", "num_parameters", "encoder_macs", "dimension"):
        if (own := student.get(name)) is None:
            continue
        full = teacher.get(name)
        kept = ""
        if is_number(full) and is_number(own) and 0 < own < full and name != "dimension":
            kept = times(full, own, "smaller" if name == "size_bytes" else "fewer")
        label = "weights" if name == "size_bytes" else FIGURE_NAMES[name]
        rows.append(Row(name, label, shown(full, name), shown(own, name), kept))
    # times on the machine of the run
    latency = section_of(facts, LATENCY)
    full, own = latency.get("teacher_ms"), latency.get("student_ms")
    if is_number(full) and is_number(own) and min(full, own) > 0:
        size, length, device = (latency.get(name) for name in ("batch_size", "length", "device"))
        label = f"ms for {size} texts of {length} tokens, on {device}"
        kept = times(full, own, "faster") if full > own else times(own, full, "slower")
        kept = kept or "as fast"
        rows.append(Row(LATENCY, label, shown(float(full)), shown(float(own)), kept))
    # held-out metrics, those with a share that is kept first
    measured = section_of(facts, "teacher_evaluation")
    of_teacher = held_out_metrics(measured)
    # a benchmark may be of other texts, and beside another teacher: here it stands only where no run has measured
    of_run, benchmarks = section_of(facts, "evaluation"), section_of(facts, BENCHMARKS)
    of_student = held_out_metrics(of_run) or held_out_metrics(benchmarks.get("agreement") or {})
    # a teacher that answers nothing is right in places, too: words without a tag, rows without a label
    first = min((name for name in of_teacher if is_share(name) and not _is_of_teacher(name)), key=_rank, default=None)
    answers = first is None or of_teacher[first] > 0
    names = dict.fromkeys([*of_student, *of_teacher])
    for name in sorted(names, key=lambda name: not is_share(name)):
        own, full = of_student.get(name), of_teacher.get(name, 1.0 if _is_of_teacher(name) else None)
        kept = ""
        if own is not None and own >= 0 and full is not None and full > 0 and is_share(name):
            is_known = _is_of_teacher(name) or (answers and not _is_constant(measured, name))
            kept = f"{100 * own / full:.0f} %" if is_known and not _is_constant(of_run, name) else ""
        teachers, students = (shown(value, name, beside=names) for value in (full, own))
        rows.append(Row(name, metric_label(name), teachers, students, kept))
    return rows


def _is_constant(metrics: Mapping[str, Any], name: str = "") -> bool:
    """Whether answers or labels are alike in the evaluation set of a metric, by default in any."""
    prefixes = [one.removesuffix(IS_CONSTANT) for one in metrics if one.endswith(IS_CONSTANT)]
    return any(name.startswith(prefix) or not name for prefix in prefixes)


def _is_of_teacher(name: str) -> bool:
    return name.rpartition("/")[2] in _OF_ONE_AT_MOST


def _rank(name: str) -> tuple[bool, int]:
    """Orders metrics: those that are named first, agreement behind all others."""
    return name == "agreement", [*_NAMED_FIRST, name].index(name)


def outcome_line(facts: Mapping[str, Any], *, place: str = " here") -> str:
    """What was won, such as `3.6× smaller, 2.1× faster here, keeps 98 % of accuracy`; empty where nothing is known.

    `place` stands behind the times, which are of the machine of the run.
    """
    rows = {row.name: row for row in outcome_rows(facts)}
    costs = (("size_bytes", ""), (LATENCY, place))
    words = [rows[name].kept + where for name, where in costs if name in rows and rows[name].kept]
    if is_number(cosine := section_of(facts, "evaluation").get("cosine")):
        return ", ".join([*words, f"cosine {cosine:.3f} to the teacher's vectors"])
    shares = [row for row in rows.values() if row.kept.endswith("%")]
    for row in sorted(shares, key=lambda row: _rank(row.name))[:1]:
        num_rows = _num_graded_rows(facts, row.name)
        few = f" on {num_rows} rows" if is_int(num_rows) and num_rows < _FEW_ROWS else ""
        words.append(f"keeps {row.kept} of {row.label}{few}")
    if not shares and _is_constant(section_of(facts, "evaluation")):
        words.append("but " * bool(words) + "all held-out answers, or all labels, are alike")
    return ", ".join(words)


def _num_graded_rows(facts: Mapping[str, Any], name: str) -> Any:
    data = section_of(facts, DATA)
    return data.get("num_held_out_rows" if _is_of_teacher(name) else _LABELLED, data.get("num_held_out_rows"))


def measured_on(facts: Mapping[str, Any]) -> str:
    """Where the figures come from: the held-out rows, and the machine of the times."""
    data, machine = section_of(facts, DATA), section_of(facts, LATENCY).get("machine")
    rows = "the run's held-out rows"
    if is_int(data.get("num_held_out_rows")):
        names = ", ".join(data["held_out"]) if fits(data.get("held_out"), [str]) else ""
        rows = f"{data['num_held_out_rows']:,} held-out rows" + (f" of {names}" if names else "")
        labelled = data.get(_LABELLED)
        is_part = is_int(labelled) and labelled < data["num_held_out_rows"]
        rows += f", {labelled:,} of them with a label" if is_part else ""
    notes = [f"Quality was measured on {rows}."] if section_of(facts, "evaluation") else []
    return " ".join([*notes, f"Times are of {machine}."] if machine else notes)


def widths_in(model: Mapping[str, Any]) -> tuple[str, list[list[str]]]:
    """The widths of a section of facts in words, and a row of cells a layer where layers differ; empty without any."""
    plan = section_of(model, "plan")
    layers = plan.get("layers", [plan])
    if not fits(layers, [dict.fromkeys(WIDTHS, int)]):
        return "", []
    start = f"Hidden size {shown(plan.get('hidden_size'))}; "
    if "layers" not in plan:
        return f"{start}in every layer {', '.join(f'{plan[name]:,} {label}' for name, label in WIDTHS.items())}.", []
    rows = [[str(index), *(f"{layer[name]:,}" for name in WIDTHS)] for index, layer in enumerate(layers)]
    return f"{start}its layers differ:", rows


def metric_label(name: str) -> str:
    """A metric's name for readers."""
    known = FIGURE_NAMES | {"size_bytes": "weights", "encoder_macs": "encoder MACs a token"}
    return known.get(name, name.replace("eval_", "held-out ").replace("_", " "))


def shown(value: Any, name: str = "", *, beside: Container[str] = ()) -> str:
    """A figure of four digits; a metric in [0, 1] as percent, a size in MB; empty for None.

    Answers' `exact_match` is a percentage already, and so is the `f1` that has it `beside` it.
    """
    if value is None or not is_number(value):
        return "" if value is None else str(value)
    if name == "size_bytes":
        return f"{value / 1e6:,.4g} MB"
    of_answers = name.removesuffix("f1") + "exact_match" in beside or name.endswith("exact_match")
    if is_share(name) and not of_answers and not is_int(value) and -1 <= value <= 1:
        return f"{100 * value:.1f} %"
    return f"{value:,}" if is_int(value) else f"{value:.4g}"


def times(more: float, less: float, word: str) -> str:
    """How many times one figure is in another, two digits, and a word: `3.6× smaller`; empty where both are level."""
    ratio = more / less
    digits = f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}"
    return "" if digits == "1" else f"{digits}× {word}"


def held_out_metrics(values: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of an evaluation, without sizes, times and a loss that is there under another name."""
    kept = {name: value for name, value in values.items() if is_number(value) and "kept_fraction" not in name}
    doubled = {name for name in kept if name.endswith("loss") and any(other.endswith(f"_{name}") for other in kept)}
    # the user's own metric may be one that is measured anyway
    doubled |= {name for name, value in kept.items() if kept.get(f"task_{name}") == value}
    return {name: value for name, value in kept.items() if not name.endswith(TIMINGS) and name not in doubled}


def is_share(name: str) -> bool:
    """Whether higher is better and 1 is the maximum of a metric."""
    return any(name == end or name.endswith(f"_{end}") for end in _HIGHER_IS_BETTER)


# Of other runtimes


def runtime_rows(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of the section, those of another shape left out; empty where there is none."""
    section = facts.get(RUNTIMES)
    rows = section.get("rows") if isinstance(section, Mapping) else None
    return [row for row in rows if fits(row, _ROW)] if isinstance(rows, list) else []


def runtime_cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells: a file and runtime each, its likeness to the student, and times beside the teacher's."""
    sides = [side for side in ("student", "teacher") if any(side in row["latency_ms"] for row in rows)]
    times = [(side, size) for size in BATCH_SIZES for side in sides]
    header = [*_HEADER, *(f"ms, {size} text{'s' * (size > 1)}, {side}" for side, size in times)]
    cells = []
    for row in rows:
        file = row["file"] if row["is_written"] else f"{row['file']}, not written"
        spent = [row["latency_ms"].get(side, {}).get(str(size)) for side, size in times]
        largest = row["figures"].get("largest_difference")
        difference = f"{largest:.1e}" if is_number(largest) else ""
        cells.append([file, row["runtime"], f"{row['size_bytes'] / 1e6:.1f}", _likeness(row), difference])
        cells[-1] += ["" if ms is None else f"{ms:.1f}" for ms in spent]
    return header, cells


def _likeness(row: Mapping[str, Any]) -> str:
    if "fidelity" not in row["figures"]:
        return f"not run: {row['not_run']}"
    words = {"fidelity": row["fidelity_name"], "lowest_cosine": "lowest", "neighbours": "neighbours kept"}
    figures = {word: row["figures"][name] for name, word in words.items() if name in row["figures"]}
    # rounded down, so that 1 means 1
    shares = {
        word: "1" if value >= 1 - 1e-6 else f"{int(value * 1e4) / 1e4:.4f}".removeprefix("0")
        for word, value in figures.items()
    }
    return ", ".join(f"{word} {share}" for word, share in shares.items())
