"""Ways to a small model of a task: prune its teacher while it trains, or before, or start from a general student.

    python -m benchmarks.sweep examples/sweeps/sizes.json --only "gradual_*,seed=0"     the general students, by size
    python -m benchmarks.studies.tasks --tasks sst2 stsb --sizes 1/4 --rows 3000 --ways pruned general

A teacher is fine-tuned on all rows of its task, once, from the masked-LM teacher in --data_dir. A student sees some of
them. Cells that are recorded are not run again, and every cell is a folder of --output_dir.
"""

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.results import changes
from benchmarks.results.students import GRADUAL
from benchmarks.studies.study import Study, flags, record_cells
from homodistil_hf.cli import main as homodistil
from homodistil_hf.files.strict_json import read_json_object
from homodistil_hf.tables import markdown_table

from ..spread import Spread

RECORD, PAGE = Path("docs/results/studies/tasks.jsonl"), Path("docs/guides/classifier.md")
FOLDERS = {
    **dict.fromkeys(("sst2", "mrpc", "stsb"), "glue/{}"),
    **dict.fromkeys(("chemprot", "scierc", "twitter_emotion"), "domain/{}"),
    "qnli": "glue/qnli_part",
    "squad": "squad_v2_part",
}
"""Task → its folder of --data_dir; those of `MADE` are made of the text there."""
METRICS = {"stsb": "spearman", "squad": "f1", "punctuation": "macro_f1", "marks": "macro_f1"}
"""Task → metric; accuracy of all others."""
_TITLES = {"sst2": "SST-2", "mrpc": "MRPC", "stsb": "STS-B", "qnli": "QNLI", "chemprot": "ChemProt"}
_TITLES |= {"scierc": "SciERC", "twitter_emotion": "emotion", "punctuation": "punctuation", "squad": "SQuAD"}
_TITLES |= {"marks": "marks"}
SIZES = changes.SIZES | {"1/16": "macs=0.0625"}
"""Share of the encoder's MACs → student; the smallest as it is planned today, with three of six layers."""
WAYS = ("pruned", "general", "mended")
"""Way → start: the task's teacher; a general student; the teacher pruned without gradients (its FFNs alone)."""
_USUAL = "1/4", 3000
MOST_EVAL_ROWS = 1000
MOST_CHARACTERS = 750
"""Of a paragraph that questions are asked about."""
_MARKS = {",": "COMMA", ".": "PERIOD"}
_SIGNS = {"comma": ",", "colon": ":", "semicolon": ";", "parenthesis": "(", "quotation": '"', "digit": "0123456789"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=[*FOLDERS, *MADE], required=True)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1/4"])
    parser.add_argument("--rows", nargs="+", type=int, default=[3000])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS[:2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings other than the defaults")
    parser.add_argument("--data_dir", type=Path, default=Path("../shared/data"))
    parser.add_argument(
        "--students", type=Path, default=Path("runs/sweeps/sizes"), help="output of the sweep of sizes"
    )
    parser.add_argument("--output_dir", type=Path, default=Path("runs/tasks"))
    given = parser.parse_args()
    names = ("task", "size", "rows", "way", "seed")
    settings = {"settings": dict(pair.split("=", 1) for pair in given.set)}
    places = product(given.tasks, given.sizes, given.rows, given.ways, given.seeds)
    cells = (dict(zip(names, place, strict=True)) | settings for place in places)
    record_cells(RECORD, cells, partial(run, given=given))


def run(cell: Mapping[str, Any], given: argparse.Namespace) -> dict[str, Any]:
    """Distil one student; returns what it and its teacher score on the same held-out rows."""
    rows = write_rows(cell["task"], given.data_dir, given.output_dir / cell["task"])
    teacher = fine_tuned_teacher(cell["task"], rows, given)
    settings = "".join(f",{name}={value}" for name, value in cell["settings"].items())
    size = cell["size"].replace("/", "-")
    folder = rows / f"{cell['way']},{size},{cell['rows']},{cell['seed']}{settings}"
    values = {
        "teacher": teacher,
        "train_data": _some_rows(rows, cell["rows"]),
        "eval_data": rows / "eval.parquet",
        "output_dir": folder,
        "seed": cell["seed"],
        **_start(cell, given.students, teacher),
        **cell["settings"],
    }
    if not (folder / "results.json").is_file():
        homodistil(["distill", *flags(values), "--overwrite_output_dir", "--logging_steps", "100"])
    results = read_json_object(folder / "results.json", str(folder))
    alone, student = results["models"][0], results["evaluation"]
    metric = METRICS.get(cell["task"], "task_accuracy")
    most = 100 if cell["task"] == "squad" else 1  # SQuAD's own F1 is of 100
    scores = {
        "teacher": alone[metric] / most,
        "student": student[metric] / most,
        "metric": metric,
        "kl": student["kl"],
    }
    return scores | {"steps": results["num_steps"], "seconds": results["time_s"]}


def _start(cell: Mapping[str, Any], students: Path, teacher: Path) -> dict[str, Any]:
    """What makes a student small: widths that its teacher is pruned to, or a general student that it starts from."""
    if cell["way"] == "pruned":
        return {"student": SIZES[cell["size"]]}
    if cell["way"] == "mended":
        return {"start": _pruned_without_gradients(cell, teacher)}
    variant = next(variant for variant, size in GRADUAL.items() if size == cell["size"])
    return {"start": students / f"{variant},seed=0"}


def _pruned_without_gradients(cell: Mapping[str, Any], teacher: Path) -> Path:
    """Prune the task's teacher on texts of the cell's rows, with defaults; the two of a pair are read as one text."""
    rows = teacher.parent.parent
    folder = rows / f"without_gradients,{cell['size'].replace('/', '-')},{cell['rows']}"
    if not (folder / "facts.json").is_file():
        texts = pd.read_parquet(_some_rows(rows, cell["rows"]))
        columns = [name for name in texts if isinstance(texts[name].iloc[0], str)]
        file = rows / f"texts-{cell['rows']}.jsonl"
        pd.DataFrame({"text": texts[columns].agg(" ".join, axis=1)}).to_json(file, orient="records", lines=True)
        values = {
            "model": teacher,
            "unlabeled_data": file,
            "output_dir": folder,
            "macs": float(Fraction(cell["size"])),
        }
        homodistil(["prune", *flags(values)])
    return folder


def fine_tuned_teacher(task: str, rows: Path, given: argparse.Namespace) -> Path:
    """Fine-tune the masked-LM teacher on all rows of a task, with the defaults and one learning rate."""
    folder = rows / "teacher"
    if not (folder / "results.json").is_file():
        values = {"model": given.data_dir / "teacher", "train_data": rows / "train.parquet"}
        values |= {"eval_data": rows / "eval.parquet", "output_dir": folder, "learning_rate": 1e-4}
        homodistil(["finetune", *flags(values), "--max_train_steps", "1500"])
    return folder / "model"


# Rows


def write_rows(task: str, data_dir: Path, folder: Path) -> Path:
    """Write train.parquet and eval.parquet of a task, with the columns that it has; returns their folder."""
    if not (folder / "eval.parquet").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for split, name in (("train", "train"), ("validation", "eval")):
            table = MADE[task](data_dir, split) if task in MADE else _rows_of(task, data_dir, split)
            most = len(table) if name == "train" else MOST_EVAL_ROWS
            table.sample(frac=1, random_state=0).head(most).to_parquet(folder / f"{name}.parquet", index=False)
    return folder


def _rows_of(task: str, data_dir: Path, split: str) -> pd.DataFrame:
    table = pd.read_parquet(data_dir / FOLDERS[task].format(task) / f"{split}.parquet")
    if task == "squad":  # as in SQuAD v1, questions that have an answer; long paragraphs take hours on a core
        table = table[table["context"].str.len() <= MOST_CHARACTERS]
        table = table[[len(answers["text"]) > 0 for answers in table["answers"]]]
    return table.drop(columns=["idx", "title", "label_name"], errors="ignore")


def _some_rows(rows: Path, count: int) -> Path:
    file = rows / f"train-{count}.parquet"
    if not file.is_file():
        pd.read_parquet(rows / "train.parquet").head(count).to_parquet(file, index=False)
    return file


def punctuation_rows(data_dir: Path, split: str) -> pd.DataFrame:
    """Lower-cased words without their marks, and what each one lost: capitals, comma, period."""
    found = [
        ([found[1].lower() for found in row], [_tag(found[1], found[2][-1:]) for found in row])
        for row in _passages(data_dir, split)
    ]
    return pd.DataFrame(found, columns=["tokens", "tags"])


def marks_rows(data_dir: Path, split: str) -> pd.DataFrame:
    """Lower-cased text without its marks, and which ones it had: several labels, or none."""
    found = [
        (
            " ".join(re.sub(r"\d+", "", found[1].lower()) for found in row),
            [name for name, signs in _SIGNS.items() if any(sign in found[0] for found in row for sign in signs)],
        )
        for row in _passages(data_dir, split)
    ]
    return pd.DataFrame(found, columns=["text", "labels"])


MADE = {"punctuation": punctuation_rows, "marks": marks_rows}
"""Task that is made of text → its rows of a split."""


def _passages(data_dir: Path, split: str) -> list[list[re.Match[str]]]:
    """Up to 40 words each, with what stands around them."""
    texts = pd.read_parquet(data_dir / "corpora/wikipedia" / f"{split}.parquet")["text"]
    return list(islice((row for text in texts for row in _forty_words(text)), 40_000))


def _forty_words(text: str) -> Iterator[list[re.Match[str]]]:
    for line in text.splitlines():
        words = [found for word in line.split() if (found := re.match(r"^\W*(\w[\w'’-]*)(\W*)$", word))]
        yield from (words[start : start + 40] for start in range(0, len(words) - 11, 40))


def _tag(word: str, mark: str) -> str:
    """`CAPITAL_COMMA` of `Paris,`; `O` of a word that lost nothing."""
    lost = [*(["CAPITAL"] if word[0].isupper() else []), *([_MARKS[mark]] if mark in _MARKS else [])]
    return "_".join(lost) or "O"


# The page


def tables(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Teacher and ways, × 100: of every task at the usual size and rows, of all else, and with other settings."""
    found: dict[tuple[str, int], dict[str, dict[str, list[float]]]] = {}
    for row in rows:
        if not row["settings"]:
            tasks = found.setdefault((row["size"], row["rows"]), {})
            scores = tasks.setdefault(_TITLES[row["task"]], {"teacher": [row["teacher"]]})
            scores.setdefault(row["way"], []).append(row["student"])
    return {"ways": _beside(found.pop(_USUAL)), "more-ways": _by_size(found), "defaults": _by_setting(rows)}


def _by_setting(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Score and KL of pruned teachers, a line a task: with the defaults, and with each other setting."""
    size, count = _USUAL
    usual = [row for row in rows if (row["size"], row["rows"], row["way"], row["seed"]) == (size, count, "pruned", 0)]
    tasks = [task for task in _TITLES if any(row["task"] == task and row["settings"] for row in usual)]
    lines = {task: [row for row in usual if row["task"] == task] for task in tasks}
    return [f"- {_TITLES[task]}: {'; '.join(map(_result, found))}." for task, found in lines.items()]


def _result(row: Mapping[str, Any]) -> str:
    return f"{_words_of(row['settings'])} {100 * row['student']:.1f}, {row['kl']:.3f}"


def _words_of(settings: Mapping[str, str]) -> str:
    return ", ".join(f"`{name}` {value}" for name, value in settings.items()) or "defaults"


def _by_size(found: Mapping[tuple[str, int], Mapping[str, Mapping[str, Sequence[float]]]]) -> list[str]:
    """A line for each size and number of rows: the ways of each task behind one another."""
    lines = []
    for size, rows in sorted(found, key=lambda setting: (-Fraction(setting[0]), -setting[1])):
        tasks = found[size, rows]
        scores = (f"{title} {_ways(tasks[title])}" for title in _TITLES.values() if title in tasks)
        lines.append(f"- {size}, {rows:,} rows: {'; '.join(scores)}.")
    return lines


def _ways(scores: Mapping[str, Sequence[float]]) -> str:
    return " / ".join(_points(scores[way]) for way in WAYS if way in scores)


def _points(values: Sequence[float]) -> str:
    return f"{Spread.of([100 * value for value in values]):.1f}"


def _beside(found: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    names = [name for name in ("teacher", *WAYS) if any(name in scores for scores in found.values())]
    cells = [[name, *(_points(of[name]) if name in of else "–" for of in found.values())] for name in names]
    return markdown_table(["", *found], cells)


STUDY = Study(RECORD, PAGE, tables)


if __name__ == "__main__":
    main()
