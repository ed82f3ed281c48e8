"""The worth of a change to the method or its settings: short runs beside each other, a row each.

    python -m benchmarks.results.changes at_once every_step --seeds 0 1 2 --max_steps 500

Rows go to docs/results/changes.json; those that are recorded are not run again. `at_once_through_masks` and
`every_step_through_masks` tell masks and path apart: the first takes the units that gradual pruning with scores of
every step ends with from the teacher at once, the second goes gradually to the units that are chosen at once.
"""

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.quiet import QUIET
from benchmarks.speed.measure import step_shape
from benchmarks.speed.settings import BenchSettings
from benchmarks.speed.whole_run import course
from homodistil_hf.distillation.teacher import multiplies_bfloat16
from homodistil_hf.experiments.config import run_of
from homodistil_hf.experiments.student import make_trainer, train_to_the_end
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import read_json_object, write_json
from homodistil_hf.models.units import UnitTensors, encoder_groups
from homodistil_hf.trainer import HomoDistilTrainer
from homodistil_hf.training.distillation_trainer import DistillationTrainer

RECORD = Path("docs/results/changes.json")
BASE = Path("examples/configs/wikibooks_quarter.json")
SIZES = {"1/2": "288-12x24-928", "1/4": "216-9x24-528", "1/8": "160-8x20-288", "1/16": "112-7x16-176"}
_AT_ONCE = {"method": "one_shot"}
_EVERY_STEP = {"num_scoring_batches": 0, "sensitivity_smoothing": 0.85}
VARIANTS: dict[str, dict[str, Any] | None] = {
    "at_once": _AT_ONCE,
    "gradual": {},
    "gradual_end_0.2": {"pruning_end_fraction": 0.2},
    "gradual_end_0.5": {"pruning_end_fraction": 0.5},
    "gradual_smoothing_0.99": {"sensitivity_smoothing": 0.99},
    "same_compute": _AT_ONCE,
    "pruned_first": {"method": "pruned_first"},
    "scratch": {"method": "scratch"},
    "every_step": _EVERY_STEP,
    "at_once_through_masks": _AT_ONCE,
    "every_step_through_masks": _EVERY_STEP,
    "hold_0.3": _AT_ONCE | {"learning_rate_hold_fraction": 0.3},
    "no_hold": _AT_ONCE | {"learning_rate_hold_fraction": 0.0},
    "64_batches": _AT_ONCE | {"num_scoring_batches": 64},
    "unclipped": _AT_ONCE | {"max_grad_norm": 0.0},
    "rate_0.0011": _AT_ONCE | {"learning_rate": 1.1e-3},
    "rate_0.0044": _AT_ONCE | {"learning_rate": 4.4e-3},
    "mask_0.15": _AT_ONCE | {"mlm_probability": 0.15},
    "frozen": None,
    "frozen_end_0.1": None,
    "frozen_end_0.5": None,
    "frozen_hold_0.3": None,
    "hidden_falls_to_3": None,
    "ffn_by_r2d2": None,
    "sampled_words": None,
    "embeddings_0.3": None,
    "narrow_attention": _AT_ONCE,
    "narrower_attention": _AT_ONCE,
    "four_layers": {},
    "four_layers_spread": {"kept_layers": [0, 2, 3, 5]},
    "four_layers_end_0.5": {"layers_end_fraction": 0.5},
    "four_layers_at_once": {"method": "shallow"},
    "four_layers_and_widths_at_once": _AT_ONCE,
}
"""Variant → settings that differ from the defaults; None where the record has rows that an earlier commit trained:
7db6fe1, and for `frozen…` bdd32ca."""
_FOUR_LAYERS = {"1/2": "4x336-12x28-1296", "1/4": "4x256-8x32-736", "1/8": "4x192-8x24-408", "1/16": "4x144-6x24-200"}
SHAPES = dict.fromkeys([name for name in VARIANTS if name.startswith("four_layers")], _FOUR_LAYERS) | {
    "narrow_attention": {"1/4": "240-8x24-488", "1/8": "168-6x24-304"},
    "narrower_attention": {"1/4": "264-6x24-528", "1/8": "184-8x20-208"},
}
"""Variant → size → widths with as many MACs as those of SIZES; a stock BERT pads them."""
_THROUGH = {"at_once_through_masks": "every_step", "every_step_through_masks": "at_once"}
"""Variant → whose units it ends with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", choices=[name for name, given in VARIANTS.items() if given is not None])
    parser.add_argument("--size", choices=SIZES, default="1/4")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--max_steps", type=int, default=500)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/changes"))
    options = parser.parse_args()
    for seed in options.seeds:
        for variant in options.variants:
            cell = {"variant": variant, "size": options.size, "seed": seed, "max_steps": options.max_steps}
            if cell not in [{name: row[name] for name in cell} for row in _rows()]:
                row = cell | run(cell, options.output_dir)
                write_json(RECORD, {"rows": [*_rows(), row]})  # read anew: another process may have added some


def _rows() -> list[dict[str, Any]]:
    return read_json_object(RECORD, str(RECORD))["rows"] if RECORD.is_file() else []


def run(cell: Mapping[str, Any], output_dir: Path) -> dict[str, Any]:
    """Train one student and evaluate it; the units that it is left with are kept beside it."""
    since, processor_since, folder = time.perf_counter(), time.process_time(), _folder(cell, output_dir)
    settings = (VARIANTS[cell["variant"]] or {}) | {name: cell[name] for name in ("seed", "max_steps")}
    if cell["variant"] == "same_compute":
        settings["max_steps"] = as_many_steps(SIZES[cell["size"]], cell["max_steps"])
    settings["bf16"] = multiplies_bfloat16(torch.device("cpu"))
    student = SHAPES.get(cell["variant"], SIZES)[cell["size"]]
    values = read_json_object(BASE, str(BASE)) | {"student": student} | QUIET | settings
    config = run_of(values | {"output_dir": str(folder), "overwrite_output_dir": True}, "the study")
    trainer = make_trainer(config, print)
    kept = {} if cell["variant"].startswith("four_layers") else units_left(trainer)  # which follows no layers
    if (other := _THROUGH.get(cell["variant"])) is not None:
        go_through(trainer, torch.load(_folder({**cell, "variant": other}, output_dir) / "units.pt"), kept)
    results = train_to_the_end(trainer, config, None, since=since)
    times = {"seconds": results["time_s"], "processor_seconds": time.process_time() - processor_since}
    torch.save(kept, folder / "units.pt")
    metrics = {name: results["evaluation"][name] for name in ("kl", "mlm_loss", "mlm_accuracy")}
    alone = {f"teacher_{name}": results["models"][0][name] for name in ("mlm_loss", "mlm_accuracy")}
    return {"settings": settings, **times, **metrics, **alone, "machine": machine_facts()}


def as_many_steps(student: str, num_steps: int) -> int:
    """Steps of a student that is cut at once, with as many useful operations as `gradual` has in `num_steps`.

    Teacher, student, heads at predicted positions and projections count, forward and backward; the scores, which both
    ways take alike, don't.
    """
    run = BenchSettings(student=student, max_steps=num_steps, pruning_end_fraction=0.3)
    stretches = course(run.full, run.target, run.schedule)
    return round(
        sum(one.num_steps * step_shape(run, one.plan).useful_flops for one in stretches)
        / step_shape(run, run.target).useful_flops
    )


def _folder(cell: Mapping[str, Any], output_dir: Path) -> Path:
    size = cell["size"].replace("/", "-")
    return output_dir / f"{cell['variant']},{size},{cell['max_steps']},{cell['seed']}"


def units_left(trainer: DistillationTrainer) -> UnitTensors:
    """Which of its first units each group of the student still has, kept up to date."""
    kept = {name: torch.arange(group.num_units) for name, group in encoder_groups(trainer.model).items()}
    follow = trainer.on_resized

    def on_resized(masks: UnitTensors) -> None:
        kept.update({name: kept[name][mask] for name, mask in masks.items()})
        follow(masks)

    trainer.on_resized = on_resized  # type: ignore[method-assign]
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
