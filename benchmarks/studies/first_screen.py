"""The README's first screen: the models that a visitor knows, and a plot of quality kept against speed-up.

Both are of students of encoders of 6 layers × 384, which have the same shapes whatever their heads. Speed-ups are of
these shapes, in processor time of one core (benchmarks/results/student_latency.py).
"""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import BertConfig

from benchmarks.studies import retrieval
from benchmarks.studies.study import Study
from homodistil_hf import resolve_plan
from homodistil_hf.files.strict_json import read_json, read_json_rows
from homodistil_hf.models.cost import planned_facts
from homodistil_hf.models.widths import widths_of
from homodistil_hf.tables import markdown_table

RESULTS = Path("docs/results")
PLOT = RESULTS / "studies" / "first_screen.png"
EMBEDDINGS = RESULTS / "studies" / "embeddings.jsonl"
SHAPES = {"1/2": "288-12x24-928", "1/4": "216-9x24-528", "1/8": "160-8x20-288"}
"""Share of the encoder's MACs → the student's shape."""
GRADUAL = {"1/2": "gradual_half", "1/4": "gradual_quarter", "1/8": "gradual_eighth"}
OURS = "homodistil_hf"
BASELINES = {
    "pruned_first": "pruned by magnitude",
    "tinybert": "TinyBERT",
    "minilm_v2": "MiniLMv2",
    "scratch": "from scratch",
}
"""Variant of the sweep of baselines → its name in the plot."""
NAMED_ABOVE = ("TinyBERT", "MiniLMv2")
"""Methods whose name stands above their point in the plot, all others below."""
EMBEDDERS = {
    "half": ("1/2", "half"),
    "quarter": ("1/4", "quarter"),
    "mpnet quarter": ("1/4", "quarter of mpnet"),
}
"""Run of retrieval.py → share of the encoder's MACs, and its name in the record of speed."""
HEADER = ["your model", "MACs left", "quality kept", "MB", "ms, ONNX", "× as fast, ONNX", "minutes", "seeds"]

Point = tuple[float, float]
Points = Mapping[str, list[Point]]


def known(rows: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Mark → the table; rows are those of retrieval.py."""
    teacher = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)
    cells = []
    speed = retrieval.RIVALS.read()
    for run, (share, student) in EMBEDDERS.items():
        runs, (name, _) = [row for row in rows if row["run"] == run], retrieval.RUNS[run]
        scores = [row["scores"] for row in runs]
        kept = " and ".join(
            f"{statistics.fmean(one[task][side] / one[task]['teacher'] for one in scores):.1%} of {label}"
            for task, side, label in (("stsb", "student", "STS-B"), ("qnli_part", "asymmetric", "retrieval"))
        )
        seconds = statistics.fmean(row["time_s"] for row in runs)
        times = [speed["processor_time"][one]["median_ms"] for one in (student, name)]
        cells.append(_cells(f"{name}, embeddings", share, kept, _sizes(runs[0]), seconds, times, len(runs)))
    tasks = read_json_rows(RESULTS / "studies" / "tasks.jsonl", "tasks")
    for share in ("1/4", "1/8"):
        shape, wanted = SHAPES[share], ("sst2", share, 3000, "pruned", {})
        if runs := [
            row for row in tasks if tuple(row[name] for name in ("task", "size", "rows", "way", "settings")) == wanted
        ]:
            kept = f"{_kept(runs, 'student', 'teacher'):.1%} of SST-2's accuracy"
            plans = resolve_plan(shape, teacher), widths_of(teacher)
            sizes = [planned_facts(teacher, "BertForSequenceClassification", plan)["size_bytes"] for plan in plans]
            seconds = statistics.fmean(row["seconds"] for row in runs)
            name = "a classifier of film reviews, 3,000 rows"
            cells.append(_cells(name, share, kept, sizes, seconds, _milliseconds(shape), len(runs)))
    share, variant = "1/4", GRADUAL["1/4"]
    # those that were fine-tuned and trained on a processor
    seeds = {one["seed"] for one in _fine_tuned(variant, "by the teacher")}
    runs = [one for one in _records("sizes") if one["variant"] == variant and one["settings"]["seed"] in seeds]
    runs = [one for one in runs if "gpu" not in one["machine"]]
    seconds = statistics.fmean(record["seconds"] - record["evaluation_seconds"] for record in runs)
    kept, times = f"{_glue(variant):.1%} of five GLUE tasks", _milliseconds(SHAPES[share])
    name = "a pre-trained BERT, then fine-tuned"
    cells.append(_cells(name, share, kept, _sizes(runs[0]), seconds, times, len(seeds)))
    return {"known": markdown_table(HEADER, cells)}


def _cells(
    teacher: str, share: str, kept: str, sizes: list[int], seconds: float, times: list[float], num_seeds: int
) -> list[str]:
    """A row; sizes in bytes and times in ms are those of the student, and of its teacher."""
    megabytes, milliseconds = (" of ".join(f"{one:.0f}" for one in pair) for pair in ([s / 1e6 for s in sizes], times))
    faster = f"{times[1] / times[0]:.1f}"
    return [teacher, share, kept, megabytes, milliseconds, faster, f"{seconds / 60:.0f}", f"{num_seeds}"]


def _sizes(run: Mapping[str, Any]) -> list[int]:
    """Bytes of the student of a record, and of its teacher."""
    return [run["models"][name]["size_bytes"] for name in ("student", "teacher")]


def _kept(runs: list[dict[str, Any]], score: str, teacher: str) -> float:
    return statistics.fmean(row[score] / row[teacher] for row in runs)


def _glue(variant: str) -> float:
    """What a student that was fine-tuned beside the teacher keeps of the mean of all the teacher's fine-tunings."""

    def mean(name: str, way: str) -> float:
        return statistics.fmean(statistics.fmean(one["scores"].values()) for one in _fine_tuned(name, way))

    return mean(variant, "by the teacher") / mean("teacher", "plain")


def _fine_tuned(variant: str, way: str) -> list[dict[str, Any]]:
    files = sorted(RESULTS.glob("fine_tunings*.json"))
    models = [one for file in files for one in read_json(file, file.name)["models"] if not one["axes"]]
    return [one for one in models if (one["variant"], one["way"]) == (variant, way)]


def _records(sweep: str) -> list[dict[str, Any]]:
    found = read_json_rows(RESULTS / f"{sweep}.jsonl", sweep)
    return [record for record in found if record["status"] == "done"]


def _milliseconds(shape: str) -> list[float]:
    """Median ms of a shape and of its teacher; those of the sizes have the last word."""
    records = [read_json(RESULTS / f"{name}_latency.json", name) for name in ("student", "baselines")]
    times = next(record["processor_time"] for record in records if shape in record["processor_time"])
    return [times[name]["median_ms"] for name in (shape, "teacher")]


def _speed_ups() -> dict[str, float]:
    """Shape → how many times as fast as the teacher; those of the sizes last, which have the last word."""
    records = (read_json(RESULTS / f"{name}_latency.json", name) for name in ("baselines", "student"))
    return {shape: found["ratio"] for record in records for shape, found in record["speed_up"].items()}


def embedding_points(rows: list[dict[str, Any]]) -> Points:
    """Name → speed-up and share of STS-B, %, of all-MiniLM-L6-v2's students of 1,000 steps: ours as in the table."""
    speed, minilm = retrieval.RIVALS.read(), retrieval.MINILM
    ours = ("half", "quarter")
    found = {OURS: [(retrieval.times_faster(speed, run, minilm), 100 * retrieval.stsb_kept(run)) for run in ours]}
    drawn = {
        "sentence-transformers, three layers": ("three layers", "library, layers 0 1 5"),
        "sentence-transformers, from scratch": (SHAPES["1/4"], "library, random weights"),
    }
    for name, (place, variant) in drawn.items():
        runs = [row for row in rows if (row["steps"], row["variant"]) == (1000, variant)]
        found[name] = [(_speed_ups()[place], 100 * _kept(runs, "stsb", "teacher_stsb"))]
    return found


def masked_word_points() -> Points:
    """Name → speed-up and share of the teacher's right masked words, %, after 2 million tokens."""
    speed_ups = _speed_ups()
    found = {OURS: [(speed_ups[SHAPES[share]], _words(_records("sizes"), name)) for share, name in GRADUAL.items()]}
    for variant, name in BASELINES.items():
        records = [record for record in _records("baselines") if record["variant"] == variant]
        plan = "{hidden_size}-{num_attention_heads}x{head_dim}-{intermediate_size}".format(**records[0]["plan"])
        found[name] = [(speed_ups[plan], _words(records, variant))]
    return found


def _words(records: list[dict[str, Any]], variant: str) -> float:
    """Of the rate that guesses most, the mean over seeds."""
    rates: dict[float, list[float]] = {}
    for record in (record for record in records if record["variant"] == variant):
        kept = 100 * record["evaluation"]["mlm_accuracy"] / record["teacher_evaluation"]["mlm_accuracy"]
        rates.setdefault(record["settings"].get("learning_rate", 0), []).append(kept)
    return max(map(statistics.fmean, rates.values()))


def draw(file: Path = PLOT) -> None:
    """Draw both teachers' students, the other methods' as single points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = read_json_rows(EMBEDDINGS, "embeddings")
    _panel(left, embedding_points(rows), "all-MiniLM-L6-v2: STS-B kept, %")
    _panel(right, masked_word_points(), "a BERT of 6 × 384: masked words kept, %")
    left.set_ylim(90, 100.9)
    right.set_ylim(0, 105)
    figure.savefig(file)


def _panel(axes: Any, points: Points, title: str) -> None:
    """One teacher's students, with the names of the other methods beside their points."""
    for name, places in points.items():
        line = [(1.0, 100.0), *places] if name == OURS else places
        axes.plot(*zip(*line, strict=True), "o-" if name == OURS else "s", label=name)
        if name != OURS:
            is_long = len(name) > 30 and places[0][0] > 3  # beside its point it would leave the frame
            place = (0 if is_long else 6, 4 if name in NAMED_ABOVE else -14)
            how = {"textcoords": "offset points", "fontsize": "small", "ha": "center" if is_long else "left"}
            axes.annotate(name, places[0], xytext=place, **how)
    axes.annotate(OURS, points[OURS][0], xytext=(6, 5), textcoords="offset points", fontsize="small", weight="bold")
    axes.set(title=title, xlabel="times faster (ONNX Runtime, one core)", xlim=(0.8, 5.9))
    axes.grid(alpha=0.3)


STUDY = Study(retrieval.STUDY.record, Path("README.md"), known)

if __name__ == "__main__":
    draw()
