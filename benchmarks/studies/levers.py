"""What might make a better student at the same cost: short runs beside the default's, seed by seed.

    python -m benchmarks.studies.levers default averaged late_hidden uncertain_rows growing_batch --seeds 0 1 2

`averaged` exports the average of the weights over the last steps. `late_hidden` compares the last layer's states alone
in the second half. `uncertain_rows` trains on that half of twice as many rows which the teacher is least sure of.
`growing_batch` has half of the rows a step until the middle of the run, and twice as many from there.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Sampler
from transformers import TrainerCallback, set_seed

from benchmarks.quiet import QUIET
from benchmarks.results.changes import SIZES
from homodistil_hf.experiments.config import run_of
from homodistil_hf.experiments.student import make_trainer, train_to_the_end
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import read_json_object, read_json_rows
from homodistil_hf.trainer import HomoDistilTrainer

RECORD = Path("docs/results/studies/levers.jsonl")
BASE = Path("examples/configs/wikibooks_quarter.json")
DEFAULT = "default"
_DECAY = 0.99


class Averaged(TrainerCallback):
    """From three quarters of the run on an average of the weights, which is the student's at the end."""

    def __init__(self) -> None:
        self.average: Any = None

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Count the weights in."""
        if state.global_step < 0.75 * state.max_steps:
            return
        if self.average is None:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(_DECAY))
        self.average.update_parameters(model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Take the average."""
        model.load_state_dict(self.average.module.state_dict())


class LateHidden(TrainerCallback):
    """The last layer's states alone from the middle of the run on."""

    def __init__(self, trainer: HomoDistilTrainer) -> None:
        self.distillation = trainer.distillation

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the other layers out, once."""
        if state.global_step == state.max_steps // 2:
            layers = len(self.distillation.matched_layers)
            self.distillation.factors = {"hidden": [0.0] * (layers - 1) + [1.0]}


class GrowingBatches(Sampler[list[int]]):
    """Batches of half the rows for half of the steps, of one and a half times as many for the rest."""

    def __init__(self, num_rows: int, batch_size: int, num_steps: int, seed: int) -> None:
        drawn = torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed)).tolist()
        sizes = [batch_size // 2] * (num_steps // 2) + [batch_size + batch_size // 2] * (num_steps - num_steps // 2)
        ends = torch.tensor(sizes).cumsum(0).tolist()
        self.batches = [drawn[end - size : end] for end, size in zip(ends, sizes, strict=True)]

    def __iter__(self) -> Any:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def average(trainer: HomoDistilTrainer) -> None:
    """Let a trainer end with the average of its last weights."""
    trainer.add_callback(Averaged())


def narrow_late(trainer: HomoDistilTrainer) -> None:
    """Let a trainer compare fewer states late in the run."""
    trainer.add_callback(LateHidden(trainer))


def take_uncertain_rows(trainer: HomoDistilTrainer) -> None:
    """Let a trainer have the half of twice as many rows as it needs where the teacher's entropy is highest."""
    args = trainer.args
    rows = trainer.train_dataset.shuffle(seed=args.seed)
    rows = rows.select(range(2 * args.max_steps * args.per_device_train_batch_size))
    scores = []
    set_seed(args.seed)
    for start in range(0, len(rows), 64):
        batch = trainer.data_collator([rows[i] for i in range(start, min(start + 64, len(rows)))])
        mask = batch["labels"] != -100
        with torch.inference_mode():
            inputs = {name: batch[name].to(args.device) for name in ("input_ids", "attention_mask") if name in batch}
            logits = trainer.distillation.teacher(**inputs).logits[mask.to(args.device)].float()
            entropy = torch.distributions.Categorical(logits=logits, validate_args=False).entropy().cpu()
        row_of = mask.nonzero()[:, 0]
        sums = torch.zeros(len(mask)).index_add_(0, row_of, entropy)
        scores.append(sums / mask.sum(dim=1).clamp(min=1))
    best = torch.cat(scores).argsort(descending=True)[: len(rows) // 2]
    trainer.train_dataset = rows.select(best.tolist())


def grow_batches(trainer: HomoDistilTrainer) -> None:
    """Let a trainer have as many rows in batches that grow."""
    args = trainer.args

    def loader() -> DataLoader[Any]:
        batches = GrowingBatches(
            len(trainer.train_dataset), args.per_device_train_batch_size, args.max_steps, args.seed
        )
        return DataLoader(trainer.train_dataset, batch_sampler=batches, collate_fn=trainer.data_collator)

    trainer.get_train_dataloader = loader  # type: ignore[method-assign]


LEVERS: Mapping[str, Callable[[HomoDistilTrainer], None]] = {
    DEFAULT: lambda trainer: None,
    "averaged": average,
    "late_hidden": narrow_late,
    "uncertain_rows": take_uncertain_rows,
    "growing_batch": grow_batches,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("levers", nargs="+", choices=LEVERS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["1/4"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--max_steps", type=int, default=1000)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/levers"))
    given = parser.parse_args()
    for lever, size, seed in product(given.levers, given.sizes, given.seeds):
        cell = {"variant": lever, "size": size, "seed": seed, "max_steps": given.max_steps}
        if cell not in [{name: row[name] for name in cell} for row in _recorded()]:
            row = json.dumps(cell | run(cell, given.output_dir) | {"machine": machine_facts()})
            with RECORD.open("a", encoding="utf-8") as file:
                file.write(row + "\n")


def _recorded() -> list[dict[str, Any]]:
    return read_json_rows(RECORD, str(RECORD)) if RECORD.is_file() else []


def run(cell: Mapping[str, Any], output_dir: Path) -> dict[str, Any]:
    """Distil one student with the defaults and a lever; returns its KL and words guessed right on held-out text."""
    since = time.perf_counter()
    folder = output_dir / ",".join(str(value).replace("/", "-") for value in cell.values())
    values = read_json_object(BASE, str(BASE)) | QUIET | {"student": SIZES[cell["size"]]}
    values |= {name: cell[name] for name in ("seed", "max_steps")}
    config = run_of(values | {"output_dir": str(folder), "overwrite_output_dir": True}, "the study")
    trainer = make_trainer(config, print)
    LEVERS[cell["variant"]](trainer)
    results = train_to_the_end(trainer, config, None, since=since)
    return {name: results["evaluation"][name] for name in ("kl", "mlm_accuracy")} | {"seconds": results["time_s"]}


if __name__ == "__main__":
    main()
