"""What a change to the method or its settings is worth: short runs beside each other, a row each.

    python -m benchmarks.results.levers at_once every_step --seeds 0 1 2 --max_steps 500

Rows go to docs/results/levers.json; those that are there are not run again. `at_once_through_masks` and
`every_step_through_masks` tell masks and path apart: the first takes the units that gradual pruning with scores of
every step ends with from the teacher at once, the second goes gradually to the units that are chosen at once.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.experiments.config import run_of
from homodistil_hf.experiments.distill import make_trainer, train_to_the_end
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import read_json_object, write_json
from homodistil_hf.models.units import UnitTensors, encoder_groups
from homodistil_hf.trainer import HomoDistilTrainer
from homodistil_hf.training.distillation_trainer import DistillationTrainer

RECORD = Path("docs/results/levers.json")
BASE = Path("examples/configs/wikibooks_quarter.json")
SIZES = {"1/4": "216-9x24-528", "1/8": "160-8x20-288"}
_GRADUAL = {"pruning_end_fraction": 0.3}
_EVERY_STEP = _GRADUAL | {"num_scoring_batches": 0}
ARMS: dict[str, dict[str, Any]] = {
    "at_once": {},
    "gradual": _GRADUAL,
    "gradual_end_0.1": {"pruning_end_fraction": 0.1},
    "same_compute": {},
    "every_step": _EVERY_STEP,
    "at_once_through_masks": {},
    "every_step_through_masks": _EVERY_STEP,
    "hold_0.3": {"learning_rate_hold_fraction": 0.3},
    "no_hold": {"learning_rate_hold_fraction": 0.0},
    "4_batches": {"num_scoring_batches": 4},
    "64_batches": {"num_scoring_batches": 64},
    "unclipped": {"max_grad_norm": 0.0},
    "mask_0.15": {"mlm_probability": 0.15},
    "mask_0.45": {"mlm_probability": 0.45},
}
_AS_MUCH_COMPUTE = {"1/4": 1.093, "1/8": 1.131}
"""Size → steps that `same_compute`, cut at once, has for each of `gradual`'s: as many MACs of both encoders."""
_THROUGH = {"at_once_through_masks": "every_step", "every_step_through_masks": "at_once"}
"""Arm → whose units it ends with."""
_QUIET = {"eval_strategy": "no", "save_strategy": "no", "disable_tqdm": True, "overwrite_output_dir": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arms", nargs="+", choices=ARMS)
    parser.add_argument("--size", choices=SIZES, default="1/4")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--max_steps", type=int, default=500)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/levers"))
    options = parser.parse_args()
    for seed in options.seeds:
        for arm in options.arms:
            cell = {"arm": arm, "size": options.size, "seed": seed, "max_steps": options.max_steps}
            if cell not in [{name: row[name] for name in cell} for row in _rows()]:
                row = cell | run(cell, options.output_dir)
                write_json(RECORD, {"rows": [*_rows(), row]})  # read anew: another process may have added some


def _rows() -> list[dict[str, Any]]:
    return read_json_object(RECORD, str(RECORD))["rows"] if RECORD.is_file() else []


def run(cell: Mapping[str, Any], output_dir: Path) -> dict[str, Any]:
    """Train one student and evaluate it; the units that it is left with are kept beside it."""
    since, folder = time.perf_counter(), _folder(cell, output_dir)
    settings = ARMS[cell["arm"]] | {name: cell[name] for name in ("seed", "max_steps")}
    if cell["arm"] == "same_compute":
        settings["max_steps"] = round(_AS_MUCH_COMPUTE[cell["size"]] * cell["max_steps"])
    settings["bf16"] = multiplies_bfloat16(torch.device("cpu"))
    values = read_json_object(BASE, str(BASE)) | _QUIET | settings
    config = run_of(values | {"student": SIZES[cell["size"]], "output_dir": str(folder)}, "the study")
    trainer = make_trainer(config, print)
    kept = units_left(trainer)
    if (other := _THROUGH.get(cell["arm"])) is not None:
        go_through(trainer, torch.load(_folder({**cell, "arm": other}, output_dir) / "units.pt"), kept)
    results = train_to_the_end(trainer, config, None, since=since)
    torch.save(kept, folder / "units.pt")
    metrics = {name: results["evaluation"][name] for name in ("kl", "mlm_loss", "mlm_accuracy")}
    teacher = {f"teacher_{name}": results["models"][0][name] for name in ("mlm_loss", "mlm_accuracy")}
    return {"settings": settings, "seconds": results["time_s"], **metrics, **teacher, "machine": machine_facts()}


def _folder(cell: Mapping[str, Any], output_dir: Path) -> Path:
    size = cell["size"].replace("/", "-")
    return output_dir / f"{cell['arm']},{size},{cell['max_steps']},{cell['seed']}"


def units_left(trainer: DistillationTrainer) -> UnitTensors:
    """Which of its first units each group of the student still has, kept up to date."""
    kept = {name: torch.arange(group.num_units) for name, group in encoder_groups(trainer.model).items()}
    follow = trainer.resized

    def resized(masks: UnitTensors) -> None:
        kept.update({name: kept[name][mask] for name, mask in masks.items()})
        follow(masks)

    trainer.resized = resized  # type: ignore[method-assign]
    return kept


def go_through(trainer: HomoDistilTrainer, units: UnitTensors, kept: UnitTensors) -> None:
    """Let a trainer end with given units: they score above all others, among which its own scores decide."""
    own = trainer.pruner.unit_scores

    def unit_scores() -> UnitTensors:
        stays = {name: torch.isin(kept[name], units[name]) for name in kept}
        return {name: values / values.max().clamp(min=1e-30) + 2 * stays[name] for name, values in own().items()}

    trainer.pruner.unit_scores = unit_scores  # type: ignore[method-assign]


if __name__ == "__main__":
    main()
