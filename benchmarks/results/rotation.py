"""Measure what other bases inside heads are worth: right after one-shot pruning, and after distillation.

    python -m benchmarks.results.rotation examples/configs/wikibooks_quarter.json
    python -m benchmarks.results.rotation examples/configs/wikibooks_quarter.json --arms one_shot homodistil

The first command prunes without training, to the config's plan and to its head size alone; the second trains each arm
with and without `rotate_heads`. Each cell is written as soon as it is done; one that is there is not done again.
"""

import argparse
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer

from benchmarks.results import compare
from homodistil_hf import HomoDistilTrainingArguments, OneShotTrainer
from homodistil_hf.models.loading import load_teacher_config
from homodistil_hf.models.widths import LayerWidths, WidthPlan, teacher_plan
from homodistil_hf.training.student_plan import resolve_student

SETTINGS = {
    "learning_rate": 1.6e-3,
    "max_steps": 300,
    "eval_steps": 75,
    "save_steps": 75,
}
VARIANTS = {"as trained": False, "rotated": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--arms", nargs="+", choices=sorted(compare.ARMS), help="train these; default: prune only")
    parser.add_argument("--num_scoring_batches", type=int, default=8)
    parser.add_argument("--results", type=Path, default=Path("docs/results/rotation.json"))
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = json.loads(options.config.read_text(encoding="utf-8")) | SETTINGS
    results = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
    results |= {"config": config, "machine": compare.machine()}
    for path, run in cells(config, options).items():
        if recorded(results, path):
            continue
        kind, name, variant = path
        results.setdefault(kind, {}).setdefault(name, {})[variant] = run()
        options.results.parent.mkdir(parents=True, exist_ok=True)
        options.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def recorded(results: dict[str, Any], path: tuple[str, str, str]) -> bool:
    kind, name, variant = path
    return variant in results.get(kind, {}).get(name, {})


def cells(config: dict[str, Any], options: argparse.Namespace) -> dict[tuple[str, str, str], Callable[[], Any]]:
    """(kind, name, variant) → what measures it."""
    found: dict[tuple[str, str, str], Callable[[], Any]] = {}
    for variant, on in VARIANTS.items():
        for arm in options.arms or ():
            folder = str(Path(config["output_dir"]).with_name("rotation") / variant.replace(" ", "_"))
            settings = config | {"rotate_heads": on, "output_dir": folder}
            found["distilled", arm, variant] = lambda arm=arm, settings=settings: compare.run_arm(arm, dict(settings))
        if options.arms:
            continue
        for name, plan in plans(config).items():
            settings = config | {"rotate_heads": on, "student": plan}
            found["pruned", name, variant] = lambda settings=settings: pruned(
                dict(settings), num_scoring_batches=options.num_scoring_batches
            )
    return found


def plans(config: dict[str, Any]) -> dict[str, str]:
    """The config's plan, and what it asks of heads alone."""
    teacher = load_teacher_config(config["teacher"])
    full = teacher_plan(teacher)
    target = resolve_student(HomoDistilTrainingArguments(output_dir="unused", student=config["student"]), teacher)
    layers = tuple(
        LayerWidths(before.num_attention_heads, after.head_dim, before.intermediate_size)
        for before, after in zip(full.layers, target.layers, strict=True)
    )
    return {"heads alone": WidthPlan(full.hidden_size, layers).to_json(), "all": target.to_json()}


def pruned(config: dict[str, Any], *, num_scoring_batches: int) -> dict[str, Any]:
    """Held-out discrepancy right after one-shot pruning."""
    data = {key: config.pop(key) for key in compare.DATA_KEYS if key in config}
    config |= {"output_dir": str(Path(config["output_dir"]).with_name("rotation") / "pruned")}
    trainer = OneShotTrainer(
        data["teacher"],
        HomoDistilTrainingArguments(**config | {"overwrite_output_dir": True}),
        num_scoring_batches=num_scoring_batches,
        **datasets_of(data),
    )
    trainer.prepare_heads(is_new=True)
    trainer.start_at_plan()
    return {
        "plan": trainer.pruner.present.to_dict(),
        "num_scoring_batches": num_scoring_batches,
        "evaluation": trainer.evaluate(),
    }


def datasets_of(data: dict[str, Any]) -> dict[str, Any]:
    tokenizer = AutoTokenizer.from_pretrained(data["teacher"])
    blocks: dict[str, Dataset] = {name: compare.blocks(data, f"{name}_data", tokenizer) for name in ("train", "eval")}
    return {f"{name}_dataset": rows for name, rows in blocks.items()} | {"processing_class": tokenizer}


if __name__ == "__main__":
    main()
