"""`homodistil distill`: one run as a JSON file says, flags overriding it. What a run does isn't here."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ..tables import aligned_lines, format_table
from .parsing import flag, parse_over_config, show_logs, tell

_DISTILL_USAGE = """usage: homodistil distill CONFIG.json [--key value ...]

Distil and prune a masked-LM teacher. CONFIG.json holds settings by name; flags of the same names override it.

  homodistil distill examples/configs/smoke.json --max_steps 50
  torchrun --nproc_per_node 8 -m homodistil_hf distill CONFIG.json --resume_from_checkpoint last

The most important settings (--help_all lists every one, TrainingArguments' included):
"""
_MAIN_SETTINGS = (
    "teacher",
    "student",
    "method",
    "train_data",
    "eval_data",
    "output_dir",
    "text_column",
    "max_seq_length",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "learning_rate",
    "pruning_end_fraction",
    "bf16",
    "seed",
    "resume_from_checkpoint",
)
_MAIN_HELP = {
    "student": "Widths to reach: preset, budget (macs=0.25), plan (216-9x24-528), file; a JSON list makes a family.",
    "output_dir": "Folder of the run: checkpoints, student/, results.json.",
    "max_steps": "Optimizer steps; else num_train_epochs counts.",
    "per_device_train_batch_size": "Blocks a device and micro-batch.",
    "gradient_accumulation_steps": "Micro-batches a step.",
    "bf16": "Train in bfloat16.",
    "seed": "Seed of masks and data order.",
    "resume_from_checkpoint": "last, a checkpoint folder, or hf://user/name on the Hub: go on with a run.",
}


_BINARIZATION_SETTINGS = ("model", "train_data", "eval_data", "text_columns", "label_column", "stages", "output_dir")


@dataclass(kw_only=True)
class _Binarize:
    """Binarize a fine-tuned model, stage by stage."""

    example: ClassVar[str] = "homodistil distill examples/configs/bit.json"
    config: str | None = flag("settings by name", default=None, positional=True, nargs="?", metavar="CONFIG.json")


def run_distill(words: Sequence[str]) -> int:
    """Run the command, with every setting as a flag, and return its exit status."""
    if not words or {"-h", "--help"} & set(words):
        print(_distill_help())
        return 0 if words else 2
    from ..experiments.binarization import BIT
    from ..experiments.config import RunParser, method_in, parse_run
    from ..methods.registry import TEXT_METHODS
    from ..methods.self_distillation.trainer import SELF_DISTILLATION, SelfDistillationArguments

    if (method := method_in(words)) == BIT:
        return _run_binarization(words)
    is_further = method == SELF_DISTILLATION
    if "--help_all" in words:
        print((RunParser(SelfDistillationArguments) if is_further else RunParser()).format_help())
        return 0
    if is_further:
        return _run_further(words)
    settings = parse_run(words)
    return (_run_texts if settings.run.method in TEXT_METHODS else _run_masked_lm)(settings)


def _run_texts(settings: Any) -> int:
    from ..experiments.family import distill_family
    from ..experiments.texts import distill_texts, refuse_foreign
    from ..training.ranks import leave_process_group

    show_logs(settings.training.process_index == 0)
    refuse_foreign(settings)
    if settings.run.vocabulary and settings.run.method == "embedding":
        settings = _trimmed(settings)
    if results := (distill_family if settings.members else distill_texts)(settings, print):
        print(format_texts(results, settings.training.output_dir))
    leave_process_group()
    return 0


def _trimmed(settings: Any) -> Any:
    from ..experiments.trim import after_trimming

    return after_trimming(settings, print)


def _run_masked_lm(settings: Any) -> int:
    from ..experiments.distill import distill
    from ..experiments.family import distill_family
    from ..training.ranks import leave_process_group

    show_logs(settings.training.process_index == 0)
    if settings.run.further_settings:
        from ..experiments.further_pretraining import after_further_pretraining

        settings = after_further_pretraining(settings, print)
    if settings.run.vocabulary:
        settings = _trimmed(settings)
    results = (distill_family if settings.members else distill)(settings, print)
    if results:
        print(format_results(results, settings.training.output_dir))
    leave_process_group()
    return 0


def _run_further(words: Sequence[str]) -> int:
    from ..experiments.config import parse_further
    from ..experiments.further_pretraining import further_pretrain
    from ..training.ranks import leave_process_group

    settings = parse_further(words)
    is_main = settings.training.process_index == 0
    show_logs(is_main)
    results = further_pretrain(settings, print)
    if is_main:
        print(format_rounds(results))
    leave_process_group()
    return 0


def _run_binarization(words: Sequence[str]) -> int:
    from ..evaluation.fine_tuning import settings_from
    from ..evaluation.own_task import MODEL_FOLDER
    from ..experiments.binarization import BinarizationSettings, binarize_chain

    page = "docs/binarization.md"
    _, values = parse_over_config(
        "distill", words, _Binarize, BinarizationSettings, shown_names=_BINARIZATION_SETTINGS, page=page
    )
    show_logs()
    settings = settings_from(BinarizationSettings, values)
    results = binarize_chain(settings, tell)
    print(f"{results['size_bytes']:,} bytes of weights: {settings.output_dir}/{MODEL_FOLDER}")
    return 0


def format_texts(results: Mapping[str, Any], output_dir: str) -> str:
    """Tell how a run with an embedding model or a reranker ended, from the content of its `results.json`."""
    folders = [f"{member['folder']}/student" for member in results.get("members", ())] or ["student"]
    words = {"cosine": "cosine", "neighbours": "10 nearest", "neighbours_in_index": "… in the teacher's index"}
    words["correlation"] = "correlation of scores"
    metrics = [name for name in words if name in results["models"][0]]
    rows = [["model", "parameters", "encoder MACs", "bytes", *(words[name] for name in metrics)]]
    for found in results["models"]:
        costs = [f"{found[cost]:,}" for cost in ("num_parameters", "encoder_macs", "size_bytes")]
        rows.append([found["name"], *costs, *(f"{found[name]:.3f}" for name in metrics)])
    reader = "CrossEncoder" if results["method"] == "reranker" else "SentenceTransformer"
    return f"""
{chr(10).join(aligned_lines(rows))}

{results["num_steps"]:,} steps, {results["time_s"]:,.0f} s; see {output_dir.rstrip("/")}/results.json. The student:

  from sentence_transformers import {reader}
  model = {reader}({f"{output_dir.rstrip('/')}/{folders[-1]}"!r})"""


def format_rounds(results: Mapping[str, Any]) -> str:
    """Tell how a run of self-distillation ended, from the content of its `results.json`."""
    names = {"loss_masked": "masked loss", "loss_state": "distance to teacher", "eval_loss": "held-out masked loss"}
    rows = [["round", *names.values()]]
    for number, found in enumerate(results["rounds"]):
        rows.append([str(number), *(f"{found[name]:.4f}" if name in found else "–" for name in names)])
    table = "\n".join(aligned_lines(rows))
    return f"\n{table}\n\n{results['time_s']:,.0f} s; fine-tune or distil {results['student']}"


def format_results(results: Mapping[str, Any], output_dir: str) -> str:
    """Tell how a run ended, from the content of its `results.json`, and how its student is loaded."""
    folder = output_dir.rstrip("/")
    students = [f"{folder}/{member['folder']}/student" for member in results.get("members", ())]
    others = "".join(f"\n  {student}" for student in students[:-1])
    student = students[-1] if students else f"{folder}/student"
    compact = results.get("compact")
    padding = ""
    if compact:
        costs = f"{compact['num_parameters']:,} parameters, {compact['encoder_macs']:,} encoder MACs"
        names = [shlex.quote(name) for name in (folder, f"{folder}-compact")]
        command = f"homodistil export {names[0]} --format compact --output {names[1]}"
        padding = f"\nThe student is padded to its stock class; without padding ({costs}):\n\n  {command}\n"
    return f"""
{format_table(results["models"])}
{padding}
{results["num_steps"]:,} steps, {results["time_s"]:,.0f} s; see {folder}/results.json. The student:

  from transformers import AutoModelForMaskedLM, AutoTokenizer
  model = AutoModelForMaskedLM.from_pretrained({student!r})
  tokenizer = AutoTokenizer.from_pretrained({student!r})""" + (
        f"\n\nThe others, loaded alike:\n{others}" if others else ""
    )


def _distill_help() -> str:
    from ..experiments.config import RunArguments
    from ..training_args import HomoDistilTrainingArguments

    known = [*fields(RunArguments), *fields(HomoDistilTrainingArguments)]
    told = {entry.name: entry.metadata.get("help", "") for entry in known} | _MAIN_HELP
    width = max(map(len, _MAIN_SETTINGS))
    return _DISTILL_USAGE + "\n".join(f"  --{name.ljust(width)}  {told[name]}" for name in _MAIN_SETTINGS)
