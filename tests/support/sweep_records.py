"""Records of a sweep and of measurements on held-out text, made by hand."""

import json
from pathlib import Path
from typing import Any

from benchmarks.sweep.cells import TEACHER, Cell, Sweep
from benchmarks.sweep.folder import read_records, record_head, write_records

MACHINE = {"processor": "a processor", "num_cores": 2, "num_threads": 1, "system": "x", "versions": {"torch": "2.0"}}


def record(
    variant: str,
    kl: float,
    *,
    seed: int = 0,
    accuracy: float = 0.3,
    macs: int = 250,
    num_steps: int = 10,
    **settings: Any,
) -> dict[str, Any]:
    """A finished cell: 100,000 tokens a step, 1,000 tokens a second."""
    axes = settings.pop("axes", {})
    method, heads = settings.pop("method", variant), settings.pop("heads", 8)
    values = {"student": f"macs={macs / 1000}", "max_steps": num_steps, "seed": seed, **settings, **axes}
    cell = Cell(variant, {**axes, "seed": seed}, method, values)
    costs = {"num_parameters": 4_000_000, "num_encoder_parameters": 1, "encoder_macs": macs, "size_bytes": 1}
    return record_head(cell) | {
        "status": "done",
        "plan": {"hidden_size": 192, "num_attention_heads": heads, "head_dim": 24, "intermediate_size": 704},
        "models": {"teacher": costs | {"encoder_macs": 1000, "num_parameters": 8_000_000}, "student": costs},
        "evaluation": {"kl": kl, "mlm_loss": 3.0, "mlm_accuracy": accuracy},
        "teacher_evaluation": {"kl": 0.0, "mlm_loss": 2.0, "mlm_accuracy": 0.5},
        "num_steps": num_steps,
        "num_tokens": num_steps * 100_000,
        "seconds": num_steps * 100.0 + 60,
        "evaluation_seconds": 60.0,
        "num_sessions": 1,
        "machine": MACHINE,
        "evaluations": [{"step": 0, "kl": 0.0}, {"step": 5, "kl": 2 * kl}, {"step": num_steps, "kl": kl}],
        "own_settings": {"learning_rate": 0.002},
        "kept_fractions": [],
    }


FIGURES = {
    key: value for key, value in record("any", 0.5).items() if key not in record_head(Cell("any", {}, "any", {}))
}
"""What a record has beside its head, of a cell that is done."""

METHODS = [
    *(record("homodistil", kl, seed=seed) for seed, kl in enumerate((0.50, 0.52, 0.54))),
    *(record("one_shot", kl, seed=seed) for seed, kl in enumerate((0.60, 0.60, 0.66))),
    *(record("pruned_first", kl, seed=seed) for seed, kl in enumerate((0.51, 0.52, 0.56))),
    *(record("scratch", kl, seed=seed) for seed, kl in enumerate((3.0, 2.0, 4.0))),
]


def short_run(variant: str, kl: float, *, seed: int = 0, size: str = "1/4", max_steps: int = 500) -> dict[str, Any]:
    """A row of benchmarks/results/changes.py."""
    return {"variant": variant, "size": size, "seed": seed, "max_steps": max_steps, "kl": kl}


NOISY = [
    *(short_run("at_once", kl, seed=seed) for seed, kl in enumerate((0.50, 0.52, 0.54))),
    *(short_run("every_step", kl, seed=seed) for seed, kl in enumerate((0.60, 0.60, 0.66))),
    *(short_run("unclipped", kl, seed=seed) for seed, kl in enumerate((0.51, 0.52, 0.56))),
]
"""A difference of one seed counts beyond 2.776 √0.00025 = 0.044."""


def write_short_runs(folder: Path, rows: Any = NOISY) -> None:
    (folder / "changes.json").write_text(json.dumps({"rows": list(rows)}))


def fine_tuned(variant: str, way: str = "plain", seed: int | None = 0, **scores: float) -> dict[str, Any]:
    """A model of benchmarks/results/fine_tunings.py."""
    place = {"variant": variant, "axes": "", "seed": None if variant == TEACHER else seed, "way": way}
    tasks = ("cola", "sst2", "mrpc", "rte", "stsb")
    found = {"scores": dict.fromkeys(tasks, 0.5) | scores, "learning_rates": dict.fromkeys(tasks, 3e-4)}
    return place | found | {"machine": {"processor": "mine"}}


def write_fine_tunings(folder: Path, *models: dict[str, Any], **constant: float) -> None:
    (folder / "fine_tunings.json").write_text(json.dumps({"constant": constant, "models": models}))


def sweep_of(records: Any, **changes: Any) -> Sweep:
    """The sweep that has just these cells."""
    names = ("variant", "axes", "method", "settings")
    cells = tuple(Cell(**{key: one[key] for key in names}) for one in records)
    return Sweep("mine", "What it is.", "runs/mine", cells, **changes)


def add_record(folder: Path, one: dict[str, Any]) -> None:
    """To `FOLDER.jsonl`, in the place of a record of the same cell."""
    file = folder.with_name(f"{folder.name}.jsonl")
    write_records(file, {known["cell"]: known for known in (*read_records(file), one)}.values())


def model(variant: str, seed: int, kl: float, axes: str = "") -> dict[str, Any]:
    counts = {"num_blocks": 1000, "num_masked_tokens": 20_000}
    found = {"kl": kl, "agreement": 0.7, "mlm_accuracy": 0.4, "mlm_loss": 3.0}
    machine = {"processor": "a processor", "num_cores": 2, "num_threads": 1, "versions": {"torch": "2"}}
    return {"variant": variant, "axes": axes, "seed": seed, "machine": machine} | found | counts


def write_results(folder: Path, sweep: str, models: list[dict[str, Any]]) -> None:
    facts = {"sweep": sweep, "mask_seed": 1, "num_chosen_on": 256}
    (folder / "held_out").mkdir(exist_ok=True)
    (folder / "held_out" / f"{sweep}.json").write_text(json.dumps(facts | {"models": models}))
