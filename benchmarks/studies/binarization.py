"""One bit a weight: what parts of the method, activations' bits and narrow students are worth; how fast bits multiply.

    python -m benchmarks.studies.binarization ladder --data_dir DIR --work_dir DIR      # hours; resumes
    python -m benchmarks.studies.binarization bits --tasks stsb --data_dir DIR --work_dir DIR
    python -m benchmarks.studies.binarization narrow --student DIR --data_dir DIR --work_dir DIR
    python -m benchmarks.studies.binarization kernel                                    # minutes, on a quiet machine

`WORK_DIR/TASK` is the encoder, fine-tuned for a GLUE task (`DATA_DIR/TASK/train.parquet`). `narrow` fine-tunes the
student beside it, binarizes both, and draws docs/results/studies/binarization.png.
"""

import argparse
import itertools
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import torch
from torch.nn import functional
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from benchmarks.studies.study import Study
from homodistil_hf.evaluation.glue.data import GLUE_TASKS, data_folder
from homodistil_hf.evaluation.own_task import MODEL_FOLDER, OwnTaskSettings, fine_tune_own
from homodistil_hf.evaluation.records import Spread
from homodistil_hf.experiments.binarization import BinarizationSettings, binarize_chain
from homodistil_hf.export.student_in_folder import SETTINGS_FILE
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.methods.binarization.binarizing import calibrate, to_binary, to_packed
from homodistil_hf.methods.binarization.bit_products import multiply_bits
from homodistil_hf.models.architectures.modeling_binarybert import PackedLinear
from homodistil_hf.models.loading import load_teacher
from homodistil_hf.models.tokenizers import TOKENIZER_CONFIG_FILE
from homodistil_hf.plans.latency.timing import figures, time_in_turns
from homodistil_hf.tables import markdown_table

PICTURE = Path("docs/results/studies/binarization.png")
FLOAT = "float"
ELASTIC, WHOLE = "+ elastic", "+ multi-distillation"
RUNGS: dict[str, dict[str, Any]] = {
    "one set, one step": {"stages": (1,), "two_sets": False, "elastic": False},
    "+ two sets": {"stages": (1,), "two_sets": True, "elastic": False},
    ELASTIC: {"stages": (1,), "two_sets": True, "elastic": True},
    WHOLE: {"stages": (2, 1), "two_sets": True, "elastic": True},
}
METRICS = {"stsb": "pearson"}
"""Task → the metric that is recorded, where it isn't the accuracy."""
_MANY_EPOCHS = 1000.0  # so that steps are what ends a stage
LINEARS = {"attention": (768, 768), "FFN, first": (768, 3072), "FFN, second": (3072, 768)}
Rows = Mapping[str, Mapping[str, Any]]


def save(part: str, found: Any) -> None:
    """Write one part of the record."""
    STUDY.write(STUDY.read() | {part: found, f"machine, {part}": machine_facts()})


def measure_once(part: str, key: str, measure: Callable[[], Mapping[str, Any]]) -> None:
    """Measure a row and write it, unless the record has it."""
    rows = STUDY.read().get(part, {})
    if key not in rows:
        rows[key] = measure()
        save(part, rows)
        print(f"{key}: {rows[key]}", flush=True)


def chain(model: Path, task: str, rung: Mapping[str, Any], seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Binarize a fine-tuned model of a task: scores of the last stage and of the float model, and bytes."""
    folder = options.work_dir / "bits" / re.sub(r"\W+", "-", f"{model.resolve().name} {task} {rung} {seed}")
    if not (model / TOKENIZER_CONFIG_FILE).is_file():
        AutoTokenizer.from_pretrained(options.model).save_pretrained(model)
    given = data_of(task, options.data_dir) | {
        "model": str(model),
        "output_dir": str(folder),
        "resume": (folder / SETTINGS_FILE).is_file(),
        "seed": seed,
        "max_train_steps": options.max_train_steps // len(rung["stages"]),
        "num_train_epochs": _MANY_EPOCHS,
    }
    results = binarize_chain(BinarizationSettings(**given, **rung), print)
    shutil.rmtree(folder)
    metric, last = METRICS.get(task, "accuracy"), results[f"stage-{len(rung['stages'])}"]
    return {"score": last[metric], FLOAT: results["float"][metric], "size_bytes": results["size_bytes"]}


def data_of(task: str, data_dir: str) -> dict[str, Any]:
    """Settings that read a GLUE task's rows as a task of one's own."""
    folder = data_folder(task, data_dir)
    files = {"train_data": folder / "train.parquet", "eval_data": folder / "validation.parquet"}
    return {name: str(file) for name, file in files.items()} | {"text_columns": GLUE_TASKS[task].text_columns}


def run_ladder(options: argparse.Namespace) -> None:
    """A row a (task, rung, seed)."""
    for seed, task, (name, rung) in itertools.product(options.seeds, options.tasks, RUNGS.items()):
        facts = {"task": task, "rung": name, "seed": seed, "max_train_steps": options.max_train_steps}
        measure = partial(chain, options.work_dir / task, task, rung, seed, options)
        measure_once("ladder", f"{task}, {name}, seed {seed}", lambda facts=facts, measure=measure: facts | measure())


def first_of_ladder(task: str, rung: str, options: argparse.Namespace) -> dict[str, Any] | None:
    """Scores and bytes of the ladder's first seed, if it has had as many steps."""
    row = STUDY.read().get("ladder", {}).get(f"{task}, {rung}, seed 0", {})
    if row.get("max_train_steps") != options.max_train_steps:
        return None
    return {key: row[key] for key in ("score", FLOAT, "size_bytes")}


def run_bits(options: argparse.Namespace) -> None:
    """One stage with activations of so many bits."""

    def measure(task: str, bits: int) -> dict[str, Any]:
        found = first_of_ladder(task, ELASTIC, options) if bits == 1 else None
        found = found or chain(options.work_dir / task, task, RUNGS[ELASTIC] | {"stages": (bits,)}, 0, options)
        return {"task": task, "bits": bits, "max_train_steps": options.max_train_steps} | found

    for task, bits in itertools.product(options.tasks, options.activation_bits):
        measure_once("bits", f"{task}, {bits} bits, {options.max_train_steps} steps", partial(measure, task, bits))


def run_narrow(options: argparse.Namespace) -> None:
    """Full and narrow models, float and bits: score, bytes, latency."""

    def measure(task: str, name: str, model: Path) -> dict[str, Any]:
        found = first_of_ladder(task, WHOLE, options) if name == "full" else None
        found = found or chain(model, task, RUNGS[WHOLE], 0, options)
        num_floats = sum(tensor.numel() for tensor in load_teacher(str(model)).parameters())
        return found | {"float_bytes": 4 * num_floats, "latency": latency_of(str(model))}

    for task in options.tasks:
        teacher, narrow = options.work_dir / task, options.work_dir / f"{task}-narrow"
        if not (narrow / MODEL_FOLDER).is_dir():
            given = data_of(task, options.data_dir) | {"max_train_steps": options.max_train_steps}
            given |= {"model": str(options.student), "teacher": str(teacher), "output_dir": str(narrow)}
            fine_tune_own(OwnTaskSettings(learning_rate=options.learning_rate, **given), print)
        for name, model in (("full", teacher), ("narrow", narrow / MODEL_FOLDER)):
            measure_once("narrow", f"{task}, {name}", partial(measure, task, name, model))
    draw(STUDY.read()["narrow"])


def latency_of(model: str) -> dict[str, Any]:
    """Milliseconds of one sequence of 128 tokens: float, and bits multiplied."""
    teacher = load_teacher(model).eval()
    binary = to_binary(teacher, activation_bits=1).eval()
    tokens = torch.arange(128)[None].remainder(teacher.config.vocab_size)
    calibrate(binary, {"input_ids": tokens})
    packed = to_packed(binary)
    multiply_bits(packed)
    with torch.inference_mode():
        passes = {FLOAT: partial(teacher, input_ids=tokens), "bits": partial(packed, input_ids=tokens)}
        return figures(time_in_turns(passes))["latency"]


def run_kernel(options: argparse.Namespace) -> None:
    """BERT-base's linear layers and a whole forward pass: float32, bits unpacked to float32, bits multiplied."""
    torch.manual_seed(0)
    model = BertForSequenceClassification(BertConfig(num_hidden_layers=options.num_layers)).eval()
    timed = partial(time_in_turns, num_rounds=options.num_rounds)
    found: dict[str, Any] = {}
    for rows in options.rows:
        tokens = torch.randint(1000, 30_000, (max(1, rows // 128), min(rows, 128)))
        binary = to_binary(model, activation_bits=1).eval()
        calibrate(binary, {"input_ids": tokens})
        unpacked, packed = to_packed(binary), to_packed(binary)
        if not multiply_bits(packed):
            raise ValueError("bits can't be multiplied here, as there is no C compiler; install one")
        layers = [module for module in packed.modules() if isinstance(module, PackedLinear)]
        with torch.inference_mode():
            for name, (inputs, outputs) in LINEARS.items():
                layer = next(one for one in layers if (one.in_features, one.out_features) == (inputs, outputs))
                values, weight = torch.randn(rows, inputs), torch.randn(outputs, inputs)
                float32 = partial(functional.linear, values, weight, layer.bias)
                passes = {"float32": float32, "bits": partial(layer, values)}
                found[f"{name} {inputs} → {outputs}, {rows} tokens"] = figures(timed(passes))
            forms = {"float32": model, "bits": packed, "bits, unpacked": unpacked}
            passes = {name: partial(form, input_ids=tokens) for name, form in forms.items()}
            found[f"the whole model, {rows} tokens"] = figures(timed(passes))
    save("kernel", {"num_threads": torch.get_num_threads(), "num_layers": options.num_layers, "cases": found})


def ladder_table(rows: Rows) -> list[str]:
    """Scores × 100 of each rung over its seeds, and the share that it keeps of the float models' mean."""
    table = pd.DataFrame(rows.values())
    tasks = list(dict.fromkeys(table["task"]))
    floats = {task: table[table["task"] == task][FLOAT].iloc[0] for task in tasks}
    cells = [[FLOAT, *(f"{100 * floats[task]:.1f}" for task in tasks), "100.0%"]]
    for name in RUNGS:
        found = {task: table[(table["task"] == task) & (table["rung"] == name)]["score"].tolist() for task in tasks}
        scores = [f"{Spread.of([100 * score for score in found[task]]):.1f}" if found[task] else "–" for task in tasks]
        kept = fmean(map(fmean, found.values())) / fmean(floats.values()) if all(found.values()) else None
        cells.append([name, *scores, "–" if kept is None else f"{kept:.1%}"])
    return markdown_table(["", *tasks, "mean kept"], cells)


def bits_table(rows: Rows) -> list[str]:
    """Scores × 100 by the bits of activations and the steps, most bits first."""
    in_order = sorted(rows.values(), key=lambda row: (row["task"], -row["bits"], row["max_train_steps"]))
    cells = [
        [row["task"], str(row["bits"]), f"{row['max_train_steps']:,}"]
        + [f"{100 * row[name]:.1f}" for name in ("score", FLOAT)]
        for row in in_order
    ]
    return markdown_table(["task", "bits of activations", "steps", "score", FLOAT], cells)


def narrow_rows(rows: Rows) -> pd.DataFrame:
    """A row a task, model and form."""
    found = []
    for key, row in rows.items():
        task, name = key.split(", ")
        forms = {FLOAT: (row[FLOAT], row["float_bytes"]), "bits": (row["score"], row["size_bytes"])}
        for form, (score, size) in forms.items():
            facts = {"task": task, "model": f"{name}, {form}", "score": score, "size_mb": size / 1e6}
            found.append(facts | {"latency_ms": row["latency"][form]["median_ms"]})
    return pd.DataFrame(found)


def narrow_table(rows: Rows) -> list[str]:
    """A row a model: each task's score; means of bytes and latency, as models differ in their heads alone."""
    cells, table = [], narrow_rows(rows)
    for name, found in table.groupby("model", sort=False):
        scores = [f"{100 * score:.1f}" for score in found["score"]]
        cells.append([str(name), *scores, f"{found['size_mb'].mean():.1f}", f"{found['latency_ms'].mean():.1f}"])
    lines = markdown_table(["model", *table["task"].unique(), "MB", "ms a sequence of 128"], cells)
    return [f"![Scores against size and latency](results/studies/{PICTURE.name})", "", *lines]


def draw(rows: Rows) -> None:
    """Each task's score by a model's bytes and latency, the tasks' mean; a tick a model."""
    import matplotlib.pyplot as plt

    table = narrow_rows(rows)
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True)
    for axis, (column, label) in zip(axes, (("size_mb", "MB"), ("latency_ms", "ms a sequence")), strict=True):
        places = table.groupby("model", sort=False)[column].mean()
        for task, found in table.groupby("task", sort=False):
            axis.plot(places[found["model"]], 100 * found["score"], "o", label=task)
        axis.set_xscale("log")
        names = [name.replace(", ", "\n") for name in places.index]
        axis.set_xticks(places, labels=[f"{name}\n{place:.3g}" for name, place in zip(names, places, strict=True)])
        axis.set_xticks([], minor=True)
        axis.set_xlabel(label)
    axes[0].set_ylabel("score × 100")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(PICTURE, dpi=120)


def kernel_table(found: Mapping[str, Any]) -> list[str]:
    """Median milliseconds, and the ratio of the medians, with quartiles of the rounds' ratios."""
    cells = []
    for name, case in found["cases"].items():
        times = [f"{case['latency'][form]['median_ms']:.2f}" for form in ("float32", "bits")]
        ratio = "{ratio:.2f} ({lower_quartile:.2f} – {upper_quartile:.2f})".format(**case["speed_up"]["bits"])
        cells.append([name, *times, ratio])
    return markdown_table(["", "float32, ms", "bits, ms", "× as fast"], cells)


TABLES: dict[str, Callable[[Any], list[str]]] = {
    "ladder": ladder_table,
    "bits": bits_table,
    "narrow": narrow_table,
    "kernel": kernel_table,
}
RUNS = {"ladder": run_ladder, "bits": run_bits, "narrow": run_narrow, "kernel": run_kernel}
STUDY = Study(
    Path("docs/results/binarization.json"),
    Path("docs/binarization.md"),
    lambda record: {part: table(record[part]) for part, table in TABLES.items() if part in record},
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=RUNS)
    parser.add_argument("--data_dir", help="folder with the tasks' rows")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/binarization"), help="TASK/: the float models")
    parser.add_argument("--model", help="folder or Hub name of the encoder, for its tokenizer")
    parser.add_argument("--student", type=Path, help="narrow: a student of HomoDistil")
    parser.add_argument("--learning_rate", type=float, help="narrow: of the student's fine-tuning (default: searched)")
    parser.add_argument("--tasks", nargs="+", default=["sst2", "mrpc", "stsb", "qnli"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max_train_steps", type=int, default=1500, help="of a chain; its stages share them")
    parser.add_argument("--activation_bits", nargs="+", type=int, default=[1, 2, 4, 8], help="bits: of a stage")
    parser.add_argument("--rows", nargs="+", type=int, default=[128, 1024], help="kernel: tokens at once")
    parser.add_argument("--num_rounds", type=int, default=15, help="kernel: timed rounds")
    parser.add_argument("--num_layers", type=int, default=12, help="kernel: of the whole model")
    options = parser.parse_args(arguments)
    RUNS[options.run](options)
    STUDY.show()


if __name__ == "__main__":
    main()
