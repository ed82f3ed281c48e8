"""Write the figures in the prose of README and docs: each has one name, and follows from one record.

    python -m benchmarks.figures

A page has the name behind the number: `99.6<!-- figure half_stsb --> %`. Most figures are cells of the tables that
other scripts write from records; the rest are calculated here. `unnamed` finds measurements in a page without a name.
"""

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

from homodistil_hf.files.messages import nearest_valid
from homodistil_hf.files.strict_json import read_json

README, DOCS = Path("README.md"), Path("docs")
STUDIES = {"architectures", "binarization", "embeddings", "gradient_free", "latency", "performance", "reliability"}
STUDIES |= {"results", "runtimes", "self_distillation", "vocabulary"}
"""Pages of docs/ with the tables: what they say of these needs no name."""

HALF, QUARTER = (("all-MiniLM-L6-v2", "1,000", macs) for macs in ("0.50", "0.25"))
CELLS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "half_stsb": ("embeddings", HALF, "STS-B"),
    "half_minutes": ("embeddings", HALF, "minutes"),
    "half_retrieval": ("embeddings", HALF, "QNLI"),
    "quarter_retrieval": ("embeddings", QUARTER, "QNLI"),
    "three_layers_stsb": ("embeddings", ("0.50", "library, layers 0 1 5"), "kept"),
    "cascade_same_hits": ("embeddings", ("40.0",), "same first hit, %"),
    "half_int8_mb": ("runtimes", ("half, with Dense", "onnx/model_quantized.onnx"), "MB"),
    "half_int8_cosine": ("runtimes", ("half, with Dense", "onnx/model_quantized.onnx"), "as the student"),
    "english_parameters": ("vocabulary", ("coverage=0.999",), "parameters"),
    "multilingual_parameters": ("vocabulary", ("all",), "parameters"),
    "english_growth": ("vocabulary", ("coverage=0.999",), "longer text"),
    "glue_quarter": ("results", ("1/4",), "GLUE kept"),
    "glue_eighth": ("results", ("1/8",), "GLUE kept"),
    "glue_beside_teacher": ("results", ("1/4, at once", "2.05 M", "by the teacher"), "kept"),
    "glue_plain": ("results", ("1/4, at once", "2.05 M", "plain"), "kept"),
    "encoder_mb": ("results", ("1 (teacher)",), "MB"),
    "eighth_mb": ("results", ("1/8",), "MB"),
    "eighth_times_faster": ("../README", ("a classifier of film reviews, 3,000 rows", "1/8"), "× as fast, ONNX"),
    "quarter_kl": ("results", ("1/4, 2 million tokens: KL on all held-out text ≤ 0.20",), "reached"),
    "quarter_kl_8_million": ("results", ("1/4, 8 million tokens: KL on all held-out text ≤ 0.15",), "reached"),
    "family_kl": ("results", ("0.252",), "from the one before"),
    "family_alone_kl": ("results", ("0.252",), "alone"),
    "family_as_long_kl": ("results", ("0.252",), "alone, as many tokens as the family so far"),
    "pruned_70": ("gradient_free", ("70%", "R2D2, norms + rescaling"), "kept"),
    "pruned_60": ("gradient_free", ("60%", "R2D2, norms + rescaling"), "kept"),
    **{f"bits_{name[0]}_faster": ("binarization", ("BERT-base",), name) for name in ("8 bits", "4 bits", "1 bit")},
    "two_bits_with": ("binarization", ("stsb", "2", "3,000", "batch_size=32, copies=10"), "score"),
    "weights_alone": ("binarization", ("stsb", "32", "3,000", "batch_size=32"), "score"),
    "eight_bits_with": ("binarization", ("stsb", "8", "3,000", "batch_size=32"), "score"),
    "two_bits_without": ("binarization", ("stsb", "2", "3,000", "batch_size=32"), "score"),
    "base_tokens_per_s": ("performance", ("bert-base-bfloat16",), "tokens/s"),
}
"""Name → page of docs/, first cells of a row in a table there, and the column."""

_FOUR_TASKS = ("sst2", "mrpc", "stsb", "qnli")
CHOSEN = (
    *("95 % confidence", "97.0 %, 10 in 1,000 by 98.3 %", "3 % of the run", "95 % of the run", "within 3 %"),
    *("30 % in training, 15 %", "15 %", "has 35 % of the MACs", "Below 37 % of the", "70 % of the", "at 60 %"),
    *("sends 40 % of the queries", "2.4 GB installed with torch", "CUDA (6 GB)", "`25%`", "first 30 % of the"),
)
"""Words with a number that was chosen, or follows from arithmetic."""

_NUMBER = r"[.,\d]*\d(?: ± [.\d]*\d)?"
_NAMED = re.compile(rf"{_NUMBER}<!-- figure (\w+) -->")
_MEASURED = re.compile(r"\d ?(?:%|[MG]B\b|ms\b|nats\b|points\b|minutes\b)|\d ?×(?! \d)|(?:KL|cosine)\D{0,20}\.\d")
_WRITTEN = re.compile(r"<!-- ([\w-]+) -->\n.*?<!-- /\1 -->|<!-- written by .*?<!-- end -->", re.DOTALL)


def main() -> None:
    known = figures()
    for page in pages():
        page.write_text(with_figures(page.read_text(encoding="utf-8"), known), encoding="utf-8")


def pages() -> list[Path]:
    """README and all pages of docs/."""
    return [README, *sorted(DOCS.rglob("*.md"))]


def with_figures(text: str, known: dict[str, str]) -> str:
    """A page with each named figure as it is known."""

    def written(found: re.Match[str]) -> str:
        if (name := found[1]) not in known:
            raise ValueError(f"a page has an unknown figure {name!r}; {nearest_valid(name, known)}")
        return f"{known[name]}<!-- figure {name} -->"

    return _NAMED.sub(written, text)


def unnamed(text: str) -> Iterator[str]:
    """Lines of a page with a measurement that has no name; tables that scripts write need none."""
    for line in _NAMED.sub("", _WRITTEN.sub("", text)).splitlines():
        measured = line
        for words in CHOSEN:
            measured = measured.replace(words, "")
        if _MEASURED.search(measured):
            yield line


def figures() -> dict[str, str]:
    """Name → the number, as pages have it."""
    found = {name: cell(*place) for name, place in CELLS.items()}
    # embedding models: what texts and a Dense are worth
    sentences, paragraphs, questions = (("sentences" + more,) for more in ("", " and paragraphs", " and questions"))
    found["paragraphs_lose"] = f"{_less('embeddings', sentences, paragraphs, 'QNLI'):.1f}"
    gained = [_less("embeddings", questions, sentences, task) for task in ("STS-B", "QNLI", "SQuAD")]
    found["questions_bring"] = f"{max(gained):.1f}"
    dense, plain = ("with a Dense",), ("plain",)
    lost = sorted(_less("embeddings", dense, plain, task) for task in ("QNLI", "SQuAD"))
    found |= {f"plain_loses_{most}": f"{one:.1f}" for most, one in zip(("least", "most"), lost, strict=True)}
    found["plain_bytes"] = f"{100 * _share('embeddings', plain, dense, 'MB') - 100:.0f}"
    # one bit a weight
    for task in ("sst2", "qnli"):
        found[f"bits_{task}"] = f"{100 * _share('binarization', ('full, bits',), ('full, float',), task):.0f}"
    kept_by = {
        "four_bits_stsb": ("stsb", "4", "3,000"),
        "two_bits_copies": ("stsb", "2", "3,000", "batch_size=32, copies=10"),
        "two_bits_long": ("stsb", "2", "10,000", "copies=10"),
        "two_bits_mrpc": ("mrpc", "2", "3,000"),
        "one_bit_copies": ("stsb", "1", "3,000", "batch_size=32, copies=10"),
        "one_bit_chain": ("stsb", "1", "3,000", "batch_size=32, copies=10, behind 2 bits"),
        "two_bits_sst2": ("sst2", "2", "3,000"),
        "two_bits_qnli": ("qnli", "2", "3,000"),
        "four_bits_mrpc": ("mrpc", "4", "3,000"),
        "one_bit_sst2": ("sst2", "1", "3,000"),
        "one_bit_qnli": ("qnli", "1", "3,000"),
    }
    whole = float(cell("binarization", ("all-MiniLM-L6-v2",), "QNLI, nDCG@10, %"))
    vectors = {"bits_half": "a half, 8 bits", "bits_quarter": "a quarter, 8 bits", "float_quarter": "a quarter, float"}
    for name, row in vectors.items():
        found[name] = f"{100 * float(cell('binarization', (row,), 'QNLI, nDCG@10, %')) / whole:.0f}"
    found |= {f"{name}_mb": cell("binarization", (vectors[name],), "MB") for name in ("bits_half", "bits_quarter")}
    for name, row in kept_by.items():
        score, whole = (float(cell("binarization", row, column)) for column in ("score", "float"))
        found[name] = f"{100 * score / whole:.0f}"
    # pruning without labels: other text, and training afterwards
    glue, rescaled = ("stsb", "mrpc", "qnli"), "R2D2 + rescaling"
    lost = [_less("gradient_free", ("60%", rescaled), ("60%", f"{rescaled}, other text"), task) for task in glue]
    found |= {"other_text_least": f"{min(lost):.0f}", "other_text_most": f"{max(lost):.0f}"}
    trained = ("60%", f"{rescaled}, then distilled")
    kept = [100 * _share("gradient_free", trained, ("100%",), task) for task in (*glue, "sst2")]
    found |= {"then_distilled_least": f"{min(kept):.0f}", "then_distilled_most": f"{max(kept):.0f}"}
    return found | _recipes() | _row_orders() | _tasks_kept()


def cell(page: str, row: tuple[str, ...], column: str) -> str:
    """The number in a table of docs/: in the first row that begins so, of a table that has the column."""
    header: list[str] = []
    for line in (DOCS / f"{page}.md").read_text(encoding="utf-8").splitlines():
        cells = [part.strip().strip("`*") for part in line.split("|")[1:-1]]
        header = (header or cells) if cells else []
        if column in header and tuple(cells[: len(row)]) == row:
            return re.findall(r"[.,\d]*\d", cells[header.index(column)])[0]
    raise ValueError(f"docs/{page}.md has no row {row} in a table with a column {column!r}")


def _less(page: str, row: tuple[str, ...], other: tuple[str, ...], column: str) -> float:
    return float(cell(page, row, column)) - float(cell(page, other, column))


def _share(page: str, row: tuple[str, ...], whole: tuple[str, ...], column: str) -> float:
    return float(cell(page, row, column)) / float(cell(page, whole, column))


def _recipes() -> dict[str, str]:
    """Scores on GLUE of a small start beside a teacher, in three seeds, and of the former recipe."""
    runs = read_json(DOCS / "results" / "task_recipes.json", "task_recipes.json")["runs"]
    found = {}
    for task, (factor, digits) in {"sst2": (100, 1), "cola": (1, 3), "stsb": (1, 3)}.items():
        of_task = [run for run in runs if run["task"] == task]
        found[f"recipe_{task}_teacher"] = f"{factor * of_task[0]['teacher']:.{digits}f}"
        for name, recipe in {"start": "distill --start", "former": "finetune --teacher"}.items():
            scores = [factor * run["score"] for run in of_task if run["recipe"] == recipe]
            mean, deviation = statistics.fmean(scores), statistics.stdev(scores)
            found[f"recipe_{task}_{name}"] = f"{mean:.{digits}f} ± {deviation:.{digits}f}"
    return found


def _tasks_kept() -> dict[str, str]:
    """Mean share of their teachers' scores that pruned models of four tasks keep, by size."""
    record = (DOCS / "results" / "studies" / "tasks.jsonl").read_text(encoding="utf-8")
    rows = [row for row in map(json.loads, record.splitlines()) if row["way"] == "pruned" and not row["settings"]]
    found = {}
    for name, size in {"eighth": "1/8", "sixteenth": "1/16"}.items():
        kept = {
            row["task"]: row["student"] / row["teacher"]
            for row in rows
            if (row["size"], row["rows"], row["seed"]) == (size, 3000, 0)
        }
        found[f"tasks_{name}"] = f"{100 * statistics.fmean(kept[task] for task in _FOUR_TASKS):.0f}"
    return found


def _row_orders() -> dict[str, str]:
    """Accuracy and KL of rows in random order and grouped by length, and the latter's share of computed tokens."""
    record = read_json(DOCS / "results" / "row_order.json", "row_order.json")
    found = {}
    for prefix, task in (("", "sst2"), ("qnli_", "qnli"), ("tags_", "punctuation")):
        found[f"order_{prefix}tokens"] = f"{100 * record['tokens_computed'][task]:.0f}"
        for name, order in {"random": "random", "grouped": "group_by_length"}.items():
            runs = [run for run in record["runs"] if (run["task"], run["order"]) == (task, order)]
            for key, factor, digits in (("accuracy", 100, 1), ("kl", 1, 3)):
                mean = statistics.fmean(run[key] for run in runs)
                found[f"order_{prefix}{name}_{key}"] = f"{factor * mean:.{digits}f}"
    return found


if __name__ == "__main__":
    main()
