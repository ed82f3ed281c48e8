"""Run HomoDistil and one-shot pruning on the same batches, and write what came out as one JSON file.

    python -m benchmarks.results.compare examples/configs/wikibooks_quarter.json --arms homodistil one_shot

The config is one of `homodistil distill`. Each arm trains in OUTPUT_DIR/ARM, resumes there if it was stopped, and is
exported and loaded again with stock transformers before it is measured. Times in the file are this machine's.
"""

import argparse
import json
import logging
import os
import platform
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerBase

import homodistil_hf
from homodistil_hf import (
    HomoDistilTrainer,
    HomoDistilTrainingArguments,
    OneShotTrainer,
    load_text,
    tokenize_to_blocks,
    verify_export,
)
from homodistil_hf.files.checkpoints import last_checkpoint
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import teacher_plan
from homodistil_hf.plans.latency.backends import measure_latencies

ARMS = {"homodistil": HomoDistilTrainer, "one_shot": OneShotTrainer}
DATA_KEYS = ("teacher", "train_data", "eval_data", "max_seq_length", "max_eval_blocks", "text_column")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("--arms", nargs="+", choices=sorted(ARMS), default=sorted(ARMS))
    parser.add_argument("--results", type=Path, help="default: docs/results/CONFIG.json; arms already in it are kept")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    config = json.loads(options.config.read_text(encoding="utf-8"))
    results_file = options.results or Path("docs/results") / options.config.name
    for arm in options.arms:
        results = json.loads(results_file.read_text(encoding="utf-8")) if results_file.is_file() else {}
        results |= {"config": config, "machine": machine()}
        results.setdefault("arms", {})[arm] = run_arm(arm, dict(config))
        results["models"] = measure(results["arms"], config)
        results_file.parent.mkdir(parents=True, exist_ok=True)
        results_file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def run_arm(arm: str, config: dict[str, Any]) -> dict[str, Any]:
    data = {key: config.pop(key) for key in DATA_KEYS if key in config}
    config["output_dir"] = str(Path(config["output_dir"]) / arm)
    tokenizer = AutoTokenizer.from_pretrained(data["teacher"])
    train, held_out = blocks(data, "train_data", tokenizer), blocks(data, "eval_data", tokenizer)
    trainer = ARMS[arm](
        data["teacher"],
        HomoDistilTrainingArguments(**config),
        train_dataset=train,
        eval_dataset=held_out,
        processing_class=tokenizer,
    )
    checkpoint = last_checkpoint(config["output_dir"])
    teacher_evaluation = None if checkpoint else trainer.evaluate()
    started = time.time()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    seconds = time.time() - started
    folder = trainer.export(Path(config["output_dir"]) / "student")
    report = verify_export(folder)
    history = trainer.state.log_history
    return {
        "plan": trainer.plan.to_dict(),
        "num_steps": trainer.state.global_step,
        "num_tokens": trainer.state.global_step * config["per_device_train_batch_size"] * data["max_seq_length"],
        "train_seconds": round(seconds),
        "resumed": checkpoint is not None,
        "export_problems": list(report.problems),
        "teacher_evaluation": teacher_evaluation,
        "evaluation": trainer.evaluate(),
        "evaluations": [entry for entry in history if "eval_kl" in entry],
        "losses": [entry for entry in history if "loss_kl" in entry],
    }


def blocks(data: dict[str, Any], name: str, tokenizer: PreTrainedTokenizerBase) -> Dataset:
    text = load_text(data[name], text_column=data.get("text_column"))
    rows = tokenize_to_blocks(text, tokenizer, max_seq_length=data["max_seq_length"])
    if name == "eval_data":
        rows = rows.shuffle(seed=0).select(range(min(len(rows), data.get("max_eval_blocks", len(rows)))))
    return rows


def measure(arms: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Size and interleaved latency of the teacher and of every exported student, as stock models."""
    folders = {"teacher": Path(config["teacher"])}
    folders |= {arm: Path(config["output_dir"]) / arm / "student" for arm in arms}
    models = {name: AutoModelForMaskedLM.from_pretrained(f, dtype=torch.float32) for name, f in folders.items()}
    latencies = measure_latencies(models, batch_size=1, length=128)
    return {
        name: {
            "num_parameters": model.num_parameters(),
            "encoder_macs": encoder_macs(teacher_plan(model.config)),
            "size_bytes": sum(p.numel() * p.element_size() for p in model.parameters()),
            "latency_ms": latencies[name].median_ms,
        }
        for name, model in models.items()
    }


def machine() -> dict[str, Any]:
    return {
        "processor": processor_name(),
        "num_threads": torch.get_num_threads(),
        "num_cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "homodistil_hf": homodistil_hf.__version__,
    }


def processor_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    main()
