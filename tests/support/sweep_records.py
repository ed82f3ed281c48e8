"""Records of a sweep, made by hand."""

from typing import Any

from benchmarks.sweep.cells import Cell, Sweep
from benchmarks.sweep.folder import record_head

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


def sweep_of(records: Any, **changes: Any) -> Sweep:
    """The sweep that has just these cells."""
    names = ("variant", "axes", "method", "settings")
    cells = tuple(Cell(**{key: one[key] for key in names}) for one in records)
    return Sweep("mine", "What it is.", "runs/mine", cells, **changes)
