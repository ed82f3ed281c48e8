"""Where a student of bits loses its scores: sites turned back to float, rates, steps, weights of one bit alone.

    python -m benchmarks.studies.bit_diagnosis '{"task": "stsb", "stages": [2], "max_train_steps": 600}'
    python -m benchmarks.studies.bit_diagnosis '{"task": "stsb", "stages": [32, 2], "float_sites": ["shares"]}'
    python -m benchmarks.studies.bit_diagnosis '{"task": "mrpc", "stages": [], "max_train_steps": 3000}'

A cell is a JSON object: `task`, and where they aren't the defaults settings of the method bit, `float_sites` of
`SITES`, `quantizers_rate`, `copies`, of each row by `examples/augment_rows.py` with the masked-LM teacher, and
`teachers_rate`, 3e-4. Without stages it is the float model, trained with the cell's settings. Recorded cells are not
run again, one that was stopped goes on. The teacher of a task is fine-tuned once, from that in --data_dir.
"""

import argparse
import copy
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from benchmarks.studies.study import Study, flags, record_cells
from benchmarks.studies.tasks import FOLDERS
from homodistil_hf.evaluation.fine_tuning import (
    OwnTaskSettings,
    encoded_rows,
    fine_tune_own,
    own_rows,
    settings_from,
)
from homodistil_hf.files.checkpoints import last_checkpoint
from homodistil_hf.methods.binarization import stages
from homodistil_hf.methods.binarization.binarizing import calibrate
from homodistil_hf.models.architectures.modeling_binarybert import ElasticQuantizer, FloatActivations
from homodistil_hf.models.heads import collator_of
from homodistil_hf.runs.config import run_of
from homodistil_hf.tables import markdown_table

METRICS = {"stsb": "pearson"}
"""Task → metric; accuracy of all others."""
SITES = {
    "attention_input": ("query.quantizer", "key.quantizer", "value.quantizer"),
    "queries_keys": ("query_bits", "key_bits"),
    "values": ("value_bits",),
    "shares": ("share_bits",),
    "context": ("attention.output.dense.quantizer",),
    "ffn_first": ("intermediate.dense.quantizer",),
    "ffn_second": ("output.dense.quantizer",),
}
"""Where activations lose bits → ends of the quantizers' names; a quantizer is of the first one that fits."""
_IN_COLUMNS = ("task", "stages", "max_train_steps", "num_train_epochs", "float_sites")
_USUAL = {"batch_size": 16, "stages": stages.BinarizationSettings.stages}
_FIRST = {"sst2": "SST-2", "stsb": "STS-B", "mrpc": "MRPC", "qnli": "QNLI"}
_COMPARED = {"max_train_steps": 3000, "num_train_epochs": 100, "batch_size": 32}
_DATA = ("task", "stages", "copies", "teachers_rate")
"""Settings of the first table's cells, and those that are a task's own."""
TEACHERS_RATE = 3e-4
_NUM_ROWS = 256


def first_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Bits of activations by task: scores, and the share that is kept of the float model's, of tasks that have both.

    Of a task's cells the one with the most copies counts, and with the most stages.
    """
    best: dict[tuple[str, int], tuple[int, Mapping[str, Any]]] = {}
    cells = [(_USUAL | json.loads(row["cell"]), row) for row in rows]
    for cell, row in sorted(cells, key=lambda one: (one[0].get("copies", 0), len(one[0]["stages"]))):
        if cell["stages"] and {key: cell[key] for key in cell if key not in _DATA} == _COMPARED:
            best[cell["task"], cell["stages"][-1]] = len(cell["stages"]), row
    lines = []
    for bits in (8, 4, 2, 1):
        of_tasks = {task: best[task, bits] for task in _FIRST if (task, bits) in best}
        found = {task: row for task, (_, row) in of_tasks.items()}
        scores = {task: row[f"stage-{number}"]["score"] for task, (number, row) in of_tasks.items()}
        steps = sorted({_COMPARED["max_train_steps"] * number for number, _ in of_tasks.values()})
        kept = [scores[task] / row["float"] for task, row in found.items()]
        # a constant answer has no correlation; the first rows don't name it
        constants = {task: row.get("constant", 0.0) for task, row in found.items()}
        above = [(scores[task] - constants[task]) / (row["float"] - constants[task]) for task, row in found.items()]
        pairs = [(scores[task], found[task]["float"]) if task in found else None for task in _FIRST]
        shown = ["–" if pair is None else "{:.1f} of {:.1f}".format(*(100 * one for one in pair)) for pair in pairs]
        means = [f"{100 * fmean(shares):.0f}" if shares else "–" for shares in (above, kept)]
        lines.append([f"W1A{bits}", *shown, " to ".join(f"{one:,}" for one in steps) or "–", *means])
    header = ["", *_FIRST.values(), "steps", "above a constant, %", "mean kept, %"]
    return markdown_table(header, lines)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row a last stage: score beside the float model's, the last layer's cosine, and the sites that lose most."""
    found = []
    for row in rows:
        cell = _USUAL | json.loads(row["cell"])
        others = {name: value for name, value in cell.items() if name not in _IN_COLUMNS}
        changes = [f"{name}={value}" for name, value in others.items() if _USUAL.get(name) != value]
        changes += [f"`{site}` float" for site in cell.get("float_sites", ())]
        changes += [f"behind {bits} bits" for bits in cell["stages"][:-1]]
        for stage in [stage for name, stage in row.items() if name.startswith("stage-")][-1:]:
            end, bits, steps = stage["end"], stage["bits"], stage["steps"]
            worst = sorted(end["errors"].items(), key=itemgetter(1), reverse=True)[:2]
            lost = ", ".join(f"`{site}` {error:.2f}" for site, error in worst)
            # a constant's score is not in the first rows
            scores = [stage["score"], row["float"], row.get("constant")]
            cells = [
                cell["task"],
                f"{bits}",
                f"{steps:,}",
                ", ".join(changes),
                *("" if score is None else f"{100 * score:.1f}" for score in scores),
                f"{end['cosines'][-1]:.2f}",
                lost,
            ]
            found.append(((cell["task"], -bits, steps, len(changes)), cells))
    header = [
        "task",
        "bits of activations",
        "steps",
        "",
        "score",
        "float",
        "a constant",
        "cosine, last layer",
        "sites that lose most",
    ]
    return markdown_table(header, [cells for _, cells in sorted(found)])


STUDY = Study(
    Path("docs/results/studies/bit_diagnosis.jsonl"),
    Path("docs/binarization.md"),
    lambda rows: {"bits": first_table(rows), "diagnosis": table(rows)},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cells", nargs="+", type=json.loads, metavar="JSON", help="a cell")
    parser.add_argument("--data_dir", type=Path, default=Path("../shared/data"))
    parser.add_argument("--output_dir", type=Path, default=Path("runs/bit_diagnosis"))
    parser.add_argument("--record", type=Path, default=STUDY.record)
    given = parser.parse_args()
    for cell in given.cells:
        if cell.get("task") not in FOLDERS:
            parser.error(f"task={cell.get('task')!r} is none of {', '.join(FOLDERS)}")
        if unknown := set(cell.get("float_sites", ())) - SITES.keys():
            parser.error(f"float_sites={sorted(unknown)} are none of {', '.join(SITES)}")
    # rows name the cells' own settings alone, and are found again by all of them
    cells = [{"cell": json.dumps(cell, sort_keys=True)} for cell in given.cells]
    record_cells(given.record, cells, partial(run, data_dir=given.data_dir, output_dir=given.output_dir))


def run(named: Mapping[str, str], data_dir: Path, output_dir: Path) -> dict[str, Any]:
    """Train a cell; its score and the teacher's, cosines of their states by layer, errors of each site's bits."""
    given = json.loads(named["cell"])
    task, sites = given.pop("task"), given.pop("float_sites", [])
    rate = given.pop("quantizers_rate", stages.BinarizationTrainer.quantizers_rate)
    data = data_dir / FOLDERS[task].format(task)
    rows = {f"{name}_data": str(data / f"{split}.parquet") for name, split in _SPLITS.items()}
    metric = METRICS.get(task, "accuracy")
    copies, teachers_rate = given.pop("copies", 0), {"learning_rate": given.pop("teachers_rate", TEACHERS_RATE)}
    teacher = output_dir / task
    if not (teacher / "model").is_dir():
        _fine_tune(rows, data_dir, teacher, teachers_rate)
    if copies:
        given["train_data"] = str(_with_copies(data / "train.parquet", copies, data_dir / "teacher", teacher))
    folder = output_dir / "".join(mark if mark.isalnum() or mark in ".-" else "_" for mark in named["cell"])
    if given.get("stages") == []:
        del given["stages"]
        return {"float": _fine_tune(rows, data_dir, folder, teachers_rate | given)[metric]}
    values = rows | {"model": str(teacher / "model"), "output_dir": str(folder)} | given
    settings = run_of(values | {"method": "bit"}, "a cell").run
    return _binarized(settings, sites, rate, metric)


_SPLITS = {"train": "train", "eval": "validation"}


def _with_copies(rows: Path, num_copies: int, model: Path, folder: Path) -> Path:
    file = folder / f"rows-{num_copies}.parquet"
    if not file.is_file():
        columns = [name for name, kind in Dataset.from_parquet(str(rows)).features.items() if "string" in kind.dtype]
        part = file.with_suffix(".part")
        words = flags({"model": model, "rows": rows, "num_copies": num_copies, "output": part, "dtype": "bfloat16"})
        subprocess.run([sys.executable, "examples/augment_rows.py", *words, "--text_columns", *columns], check=True)
        part.rename(file)
    return file


def _fine_tune(rows: Mapping[str, str], data_dir: Path, folder: Path, changes: Mapping[str, Any]) -> dict[str, Any]:
    values = {"model": str(data_dir / "teacher"), "output_dir": str(folder), "resume": folder.exists()}
    metrics: dict[str, Any] = fine_tune_own(settings_from(OwnTaskSettings, rows | values | changes), print)["metrics"]
    return metrics


def _binarized(settings: stages.BinarizationSettings, sites: list[str], rate: float, metric: str) -> dict[str, Any]:
    """All stages, as `binarize_chain` trains them, but for sites that stay float; nothing is exported."""
    inputs = stages.task_inputs(settings, print)
    settings, floating, tokenizer = inputs.settings, inputs.model, inputs.tokenizer
    task, _, dev = own_rows(settings, tokenizer, str, floating)
    held_out = encoded_rows(task, dev.select(range(min(_NUM_ROWS, len(dev)))), tokenizer, settings.row_length)
    collate = collator_of(tokenizer, floating)
    batches = list(DataLoader(held_out.remove_columns("length"), batch_size=32, collate_fn=collate))
    found: dict[str, Any] = {"float": inputs.measure(floating)[metric]}
    # a constant has no correlation with anything, and of classes the most frequent one is right so often
    found["constant"] = max(Counter(dev[task.columns.labels[0]]).values()) / len(dev) if metric == "accuracy" else 0.0
    teacher = floating
    for number, bits in enumerate(settings.stages, start=1):
        student = with_float_sites(stages.stage_student(teacher, bits, settings), sites)
        folder = Path(settings.output_dir, f"stage-{number}")
        trainer = stages.stage_trainer(folder, student, teacher, inputs)
        trainer.quantizers_rate = rate
        calibrated = copy.deepcopy(student)
        calibrate(calibrated, _read(batches[0]))
        start = distances(calibrated, floating, batches)
        train_loss = trainer.train(last_checkpoint(folder)).training_loss
        found[f"stage-{number}"] = {"bits": bits, "score": inputs.measure(student)[metric], "train_loss": train_loss}
        found[f"stage-{number}"] |= {"steps": trainer.args.max_steps, "start": start}
        found[f"stage-{number}"] |= {"end": distances(student.eval(), floating, batches)}
        teacher = student
    return found


def with_float_sites(model: PreTrainedModel, sites: list[str]) -> PreTrainedModel:
    """Take the quantizers of sites out of a model of bits."""
    for name, _ in list(_quantizers(model)):
        if _site_of(name) in sites:
            model.set_submodule(name, FloatActivations())
    return model


@torch.no_grad()
def distances(
    student: PreTrainedModel, teacher: PreTrainedModel, batches: list[dict[str, torch.Tensor]]
) -> dict[str, Any]:
    """How near a student's states are to its float teacher's, and its activations of few bits to what they were.

    Returns:
        `dict`: `cosines`, of the embeddings and each layer, means over tokens; `errors`, of each site with bits
        ‖x − x_q‖² / ‖x‖², means over layers and batches; `empty_shares`: the share of tokens whose codes of
        attention's shares are all 0.
    """
    errors: dict[str, list[float]] = {}
    empty: list[float] = []

    def compare(site: str, module: nn.Module, given: tuple[torch.Tensor], quantized: Any) -> None:
        codes, scale = quantized
        errors.setdefault(site, []).append(float((codes * scale - given[0]).square().sum() / given[0].square().sum()))
        if site == "shares":
            empty.append(float((codes == 0).all(-1).float().mean()))

    hooks = [one.register_forward_hook(partial(compare, _site_of(name))) for name, one in _quantizers(student)]
    sums, num_tokens = torch.zeros(student.config.num_hidden_layers + 1), 0
    for batch in map(_read, batches):
        mask_BT = batch["attention_mask"]
        states = (model(**batch, output_hidden_states=True)["hidden_states"] for model in (student, teacher))
        cosines = [torch.cosine_similarity(one, other, dim=-1) for one, other in zip(*states, strict=True)]
        sums += torch.stack([(one_BT * mask_BT).sum() for one_BT in cosines])
        num_tokens += int(mask_BT.sum())
    for hook in hooks:
        hook.remove()
    found = {"cosines": [round(float(one) / num_tokens, 4) for one in sums]}
    of_sites = {"errors": {site: round(fmean(of_site), 4) for site, of_site in errors.items()}}
    return found | of_sites | ({"empty_shares": round(fmean(empty), 4)} if empty else {})


def _read(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in batch.items() if name != "labels"}


def _quantizers(model: nn.Module) -> Iterator[tuple[str, ElasticQuantizer]]:
    return ((name, one) for name, one in model.named_modules() if isinstance(one, ElasticQuantizer))


def _site_of(name: str) -> str:
    return next(site for site, ends in SITES.items() if name.endswith(ends))


if __name__ == "__main__":
    main()
