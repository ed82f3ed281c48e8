"""The records as tables: students of sweeps, fine-tuned models and short runs. Statistics are in comparisons.py."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd

from benchmarks.results.sweep_models import other_axes
from benchmarks.sweep.cells import TEACHER, Sweep, read_sweep
from benchmarks.sweep.folder import IMPOSSIBLE, as_cell, read_records, trained
from benchmarks.sweep.tables import Record, chosen, in_order, seed_of
from benchmarks.sweep.training import setting_names
from homodistil_hf import HomoDistilTrainingArguments
from homodistil_hf.models.widths import DEPTH_KEY

GRADUAL = {"gradual_half": "1/2", "gradual_quarter": "1/4", "gradual_eighth": "1/8", "gradual_sixteenth": "1/16"}
"""Variant of the sweep `sizes`, with nothing but the defaults → its share of the teacher's encoder MACs."""
AT_ONCE = {"half": "1/2", "quarter": "1/4", "eighth": "1/8", "sixteenth": "1/16"}
"""The same, pruned at once."""
SIX_LAYERS = "1/16, six layers"
"""A size with all of the teacher's layers, of which the planner then kept four."""
GRADUAL_AND_WHOLE = GRADUAL | {"six_layers_sixteenth": SIX_LAYERS}
AT_ONCE_AND_WHOLE = AT_ONCE | {"six_layers_sixteenth_at_once": SIX_LAYERS}
PRUNED_FIRST = {f"pruned_first_{name}": size for name, size in AT_ONCE.items()}
"""The same, pruned by magnitude and then distilled."""
SCRATCH = {f"scratch_{name}": size for name, size in AT_ONCE.items()}
"""The same, from random weights, without a teacher."""
COMPACT = "compact_quarter"
"""Pruned at once to a shape that only the compact export keeps as it is."""
ROWS = {
    **GRADUAL_AND_WHOLE,
    **{name: f"{size}, at once" for name, size in AT_ONCE_AND_WHOLE.items()},
    COMPACT: "1/4, compact, at once",
}
"""Variant → how tables of both ways name it."""
DEFAULTS, LENGTHS, TOKENS = "sizes", "lengths", "tokens"
"""Sweeps of students by size, the same in shorter and longer runs, and by tokens, these pruned at once."""

HELD_OUT = ("kl", "agreement", "mlm_accuracy", "mlm_loss")  # on all held-out text; the table calls them `all_…`

_SIZE_TOLERANCE = 0.15
_COLUMNS = (
    *("sweep", "variant", "axes", "seed", "digest", "shape", "encoder_macs", "size"),
    *("num_tokens", "kl", "mlm_accuracy", "accuracy_kept", "minutes", "machine", "record"),
)


@dataclass(frozen=True)
class Results:
    """All records: their folder, and by name each sweep's file and its records in order."""

    folder: Path
    sweeps: Mapping[str, Sweep]
    records: Mapping[str, list[Record]]

    @classmethod
    def read(cls, folder: Path, sweeps_folder: Path) -> "Results":
        """Read all records of sweeps that have a file; any may be missing."""
        known = setting_names() - {"method"}
        files = (file for file in sorted(sweeps_folder.glob("*.json")) if file.stem != "smoke")
        sweeps = {file.stem: read_sweep(file, known) for file in files}
        records = {}
        for name, sweep in sweeps.items():
            found = list(read_records(folder / f"{name}.jsonl"))
            known = {cell.name for cell in sweep.cells}
            removed = [as_cell(record) for record in found if record["cell"] not in known]
            sweeps[name] = dataclasses.replace(sweep, cells=(*sweep.cells, *removed))
            records[name] = in_order(sweeps[name].cells, found)
        return cls(folder, sweeps, records)

    def json(self, name: str) -> Any:
        """Content of a JSON file beside the records, None where it is missing."""
        file = self.folder / f"{name}.json"
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None

    @cached_property
    def students(self) -> pd.DataFrame:
        """One row a student and sweep; `accuracy_kept` is a share of its teacher's, `record` is the whole record."""
        rows = [_row(name, record) for name, records in self.records.items() for record in trained(records)]
        table = pd.DataFrame(rows, columns=_COLUMNS)
        return table.merge(self._on_all_text, how="left", on=["sweep", "variant", "axes", "seed"])

    def of(self, *sweeps: str) -> pd.DataFrame:
        """Students of some sweeps; where a sweep searches an axis, those of its best values."""
        best = {
            (name, record["cell"])
            for name in self.sweeps.keys() & set(sweeps)
            for record in chosen(trained(self.records.get(name, [])), self.sweeps[name].choose)
        }
        keys = zip(self.students["sweep"], (record["cell"] for record in self.students["record"]), strict=True)
        return self.students[pd.Series([key in best for key in keys], index=self.students.index, dtype=bool)]

    def impossible(self, sweep: str) -> list[str]:
        """Variants that can't exist."""
        return list(
            dict.fromkeys(one["variant"] for one in self.records.get(sweep, []) if one["status"] == IMPOSSIBLE)
        )

    @cached_property
    def fine_tuned(self) -> pd.DataFrame:
        """One row a model and way of fine-tuning: a column a task, their `mean`, and what that is of the teacher's.

        `kept` is a share of the teacher's mean over all of its own fine-tunings, which differ by chance and machine;
        `above` is the same share where a model that gives every row the most frequent label has 0.
        """
        rows = [
            {**model, **model["scores"], "mean": fmean(model["scores"].values()), "gpu": _gpu(model), "file": file}
            for file, found in self.fine_tunings.items()
            for model in found["models"]
        ]
        names = ["variant", "axes", "seed", "way", "mean", "gpu", "file"]
        table = pd.DataFrame(rows, columns=None if rows else names)
        keys, defaults = ["variant", "axes", "seed"], self.students[self.students["sweep"].isin([DEFAULTS, TOKENS])]
        table = table.merge(defaults[[*keys, "num_tokens"]], how="left", on=keys)
        teacher = table.loc[table["variant"] == TEACHER, "mean"].mean()
        return table.assign(kept=table["mean"] / teacher, above=(table["mean"] - self.floor) / (teacher - self.floor))

    @cached_property
    def fine_tunings(self) -> dict[str, Any]:
        """Name → content of each file of fine-tuned models, which stand beside a teacher of their own."""
        return {file.stem: self.json(file.stem) for file in sorted(self.folder.glob("fine_tunings*.json"))}

    @cached_property
    def constant(self) -> dict[str, float]:
        """GLUE task → score of a model that gives every row the most frequent label; empty if not measured."""
        return next(iter(self.fine_tunings.values()), {}).get("constant", {})

    @property
    def floor(self) -> float:
        """Mean of `constant`, nan if not measured."""
        return fmean(self.constant.values()) if self.constant else math.nan

    @cached_property
    def short_runs(self) -> pd.DataFrame:
        """The rows of benchmarks/results/changes.py."""
        rows = (self.json("changes") or {"rows": []})["rows"]
        return pd.DataFrame(rows, columns=None if rows else ["size", "variant", "seed", "max_steps", "kl", "machine"])

    @property
    def on_all_text(self) -> dict[str, Any]:
        """Sweep → what was measured of its students on all held-out text, of those that were."""
        return {sweep: found for sweep in self.records if (found := self.json(f"held_out/{sweep}"))}

    @cached_property
    def _on_all_text(self) -> pd.DataFrame:
        keys = ["sweep", "variant", "axes", "seed"]
        rows = [
            [sweep, *(model[name] for name in (*keys[1:], *HELD_OUT))]
            for sweep, found in self.on_all_text.items()
            for model in found["models"]
        ]
        return pd.DataFrame(rows, columns=[*keys, *(f"all_{name}" for name in HELD_OUT)])


def setting_of(record: Record, name: str) -> Any:
    """What a run was given, or had by default."""
    return {**record.get("own_settings", {}), **record["settings"]}.get(
        name, getattr(HomoDistilTrainingArguments, name)
    )


def plan_of(record: Record) -> dict[str, int]:
    """A uniform student's widths, without what a standard export pads."""
    compact, plan = record["models"].get("compact", {}).get("plan", {}), record["plan"]
    depth = {DEPTH_KEY: plan[DEPTH_KEY]} if DEPTH_KEY in plan else {}
    return depth | compact if "head_dim" in compact else plan


def shape_of(record: Record) -> str:
    """A uniform student's widths as a short plan, such as `192-8x24-704`, or `4x192-8x24-704` of fewer layers."""
    plan = plan_of(record)
    depth = f"{plan[DEPTH_KEY]}x" if DEPTH_KEY in plan else ""
    return depth + "{hidden_size}-{num_attention_heads}x{head_dim}-{intermediate_size}".format(**plan)


def size_of(fraction: float) -> str:
    """The nearest of the sizes that the page is about, such as `1/4`; empty for a student of another size."""
    size = min(GRADUAL.values(), key=lambda size: abs(math.log(fraction / Fraction(size))))
    return size if abs(fraction / Fraction(size) - 1) < _SIZE_TOLERANCE else ""


def _row(sweep: str, record: Record) -> dict[str, Any]:
    found = record["evaluation"]
    return {
        **{name: record[name] for name in ("digest", "num_tokens")},
        "variant": record["variant"],
        **{name: found[name] for name in ("kl", "mlm_accuracy")},
        "sweep": sweep,
        "axes": other_axes(record),
        "seed": seed_of(record),
        "shape": shape_of(record),
        "encoder_macs": macs_fraction(record),
        "size": size_of(macs_fraction(record)),
        "accuracy_kept": found["mlm_accuracy"] / record["teacher_evaluation"]["mlm_accuracy"],
        "minutes": math.nan if _gpu(record) else (record["seconds"] - record["evaluation_seconds"]) / 60,
        "machine": record["machine"],
        "record": record,
    }


def _gpu(record: Mapping[str, Any]) -> str:
    return str(record["machine"].get("gpu", ""))


def macs_fraction(record: Record) -> float:
    """Encoder MACs as a share of the teacher's, without what a standard export adds where layers differ in width."""
    models: Mapping[str, Any] = record["models"]
    return models.get("compact", models["student"])["encoder_macs"] / models["teacher"]["encoder_macs"]
