"""What least-squares compensation is worth: right after pruning at once, and over the course of training.

    python -m benchmarks.results.compensation prune examples/configs/wikibooks_quarter.json
    python -m benchmarks.results.compensation train examples/configs/wikibooks_quarter.json --arm homodistil > LOG
    python -m benchmarks.results.compensation curves "homodistil compensated=LOG" "homodistil=LOG"

`prune` cuts the teacher to the plan by scores of 16 batches, each kind of group alone and all together, and measures
held-out discrepancy without and with compensation. `train` trains an arm with compensation at every change of its
masks; without it, `benchmarks/compare.py` or `homodistil distill` does on the same batches. `curves` takes the
evaluations and losses that such runs printed. All goes into docs/results/compensation.json.
"""

import argparse
import ast
import copy
import json
import logging
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from benchmarks.results.compare import ARMS, DATA_KEYS, blocks, machine
from benchmarks.results.least_squares import compensation
from homodistil_hf import HomoDistilTrainer, HomoDistilTrainingArguments, OneShotTrainer
from homodistil_hf.distillation.discrepancy import DiscrepancyMeter
from homodistil_hf.models.units import UnitTensors
from homodistil_hf.models.widths import WidthPlan
from homodistil_hf.pruning.masks import apply_masks, choose_masks

RESULTS = Path("docs/results/compensation.json")
KINDS = {"all": (None, 0.01, 0.1, 1.0), "ffn": (None, 0.1), "attention": (None, 0.1), "hidden": (None, 0.1)}
"""What is pruned, and the ridges that it is compensated with; None = not at all."""
NUM_SCORING_BATCHES = 16
NUM_BLOCKS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("prune", "train"):
        command = commands.add_parser(name)
        command.add_argument("config", type=Path)
        command.add_argument("--settings", nargs="+", default=[], metavar="NAME=JSON", help="replace the config's")
    commands.choices["train"].add_argument("--arm", choices=sorted(ARMS), required=True)
    command = commands.add_parser("curves")
    command.add_argument("logs", nargs="+", metavar="NAME=LOG")
    command.add_argument(
        "--settings", nargs="+", default=[], metavar="NAME=JSON", help="what the runs had, to be told"
    )
    options = parser.parse_args()
    settings = {name: json.loads(value) for name, _, value in (text.partition("=") for text in options.settings)}
    if options.command == "curves":
        runs = {name: curve(Path(file)) for name, _, file in (text.partition("=") for text in options.logs)}
        save("curves", {"settings": settings, "runs": runs})
        return
    config = json.loads(options.config.read_text(encoding="utf-8")) | settings
    if options.command == "train":
        train(options.arm, config)
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    save("prune", {"config": config, "machine": machine(), "num_blocks": NUM_BLOCKS, "rows": prune_at_once(config)})


def save(name: str, entry: dict[str, Any]) -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results | {name: entry}, indent=1) + "\n", encoding="utf-8")


def curve(log: Path) -> dict[str, list[float]]:
    """Discrepancy on held-out text, accuracy there, and the KL in training, in the order of the log."""
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{'")]
    entries = [ast.literal_eval(line) for line in lines]
    names = ("eval_kl", "eval_mlm_accuracy", "loss_kl", "num_guard_pauses")
    return {name: [float(entry[name]) for entry in entries if name in entry] for name in names}


def make_trainer(trainer_class: type[HomoDistilTrainer], config: dict[str, Any], name: str) -> HomoDistilTrainer:
    data = {key: config[key] for key in DATA_KEYS if key in config}
    settings = {key: value for key, value in config.items() if key not in DATA_KEYS}
    settings |= {"output_dir": str(Path(config["output_dir"]) / name), "overwrite_output_dir": True}
    tokenizer = AutoTokenizer.from_pretrained(data["teacher"])
    return trainer_class(
        data["teacher"],
        HomoDistilTrainingArguments(**settings),
        train_dataset=blocks(data, "train_data", tokenizer),
        eval_dataset=blocks(data, "eval_data", tokenizer),
        processing_class=tokenizer,
    )


def train(arm: str, config: dict[str, Any]) -> None:
    class Compensated(ARMS[arm]):  # type: ignore[misc, name-defined]
        """Fits on the micro-batch that came last, whether for training or for scores."""

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            self.last_inputs = forward_inputs(inputs)
            return super().compute_loss(model, inputs, *args, **kwargs)

    trainer = make_trainer(Compensated, config, f"{arm}-compensated")
    prune_to, pruner = trainer.pruner.prune_to, trainer.pruner

    def compensated(plan: WidthPlan) -> None:
        # The masks that `prune_to` is about to choose.
        masks = choose_masks(pruner.unit_scores(), pruner.masks, plan=plan)
        with compensation(pruner.model, pruner.groups, masks, batch=trainer.last_inputs):
            prune_to(plan)

    pruner.prune_to = compensated
    trainer.train()


def forward_inputs(inputs: dict[str, torch.Tensor]) -> dict[str, Any]:
    """What a masked-LM model gets to be looked at inside: its head sees every token, and stops before the decoder."""
    tokens_BT = inputs["input_ids"]
    positions = torch.arange(tokens_BT.numel(), device=tokens_BT.device)
    return {"input_ids": tokens_BT, "masked_positions": positions, "skip_decoder": True}


def prune_at_once(config: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of what was pruned, how it was compensated, and how far the student then is from the teacher."""
    trainer = make_trainer(OneShotTrainer, config | {"max_eval_blocks": NUM_BLOCKS}, "at_once")
    trainer.model.eval()
    batches = iter(trainer.get_train_dataloader())
    *scored, fitted = (
        trainer.get_batch_samples(batches, 1, trainer.args.device)[0][0] for _ in range(NUM_SCORING_BATCHES + 1)
    )
    for batch in scored:
        trainer._score_batch(batch)
    pruner = trainer.pruner
    masks = choose_masks(pruner.unit_scores(), pruner.masks, plan=pruner.final_plan())
    inputs = forward_inputs(fitted)
    return measured(trainer, masks, inputs)


def measured(trainer: HomoDistilTrainer, masks: UnitTensors, inputs: dict[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for kind, ridges in KINDS.items():
        chosen = of_kind(trainer, masks, kind)
        for ridge in ridges:
            rows.append({"pruned": kind, "ridge": ridge, **prune_and_measure(trainer, chosen, inputs, ridge)})
            logging.info("%s", rows[-1])
    return rows


def of_kind(trainer: HomoDistilTrainer, masks: UnitTensors, kind: str) -> UnitTensors:
    groups = trainer.pruner.groups
    return {
        name: mask if kind in (groups[name].kind, "all") else torch.ones_like(mask) for name, mask in masks.items()
    }


def prune_and_measure(
    trainer: HomoDistilTrainer, masks: UnitTensors, inputs: dict[str, Any], ridge: float | None
) -> dict[str, Any]:
    """Prune a copy of the teacher; without a ridge, no more than that."""
    student, groups = copy.deepcopy(trainer.model), trainer.pruner.groups
    refitted = compensation(student, groups, masks, batch=inputs, ridge=ridge) if ridge else nullcontext()
    started = time.process_time()
    with refitted:
        apply_masks(student, groups, masks)
    seconds = time.process_time() - started
    meter = DiscrepancyMeter(trainer.distillation.task)
    for batch in trainer.get_eval_dataloader():
        meter.update(student, trainer.distillation.teacher, batch)
    return {name: round(value, 4) for name, value in meter.results().items()} | {"cpu_seconds": round(seconds, 1)}


if __name__ == "__main__":
    main()
