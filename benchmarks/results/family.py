"""Train and record a family, each member from the one before, beside runs of their own.

    python -m benchmarks.results.family --output_dir runs/family

Runs that are finished are not run again, so an interrupted command goes on.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quiet import QUIET
from homodistil_hf.experiments.config import run_of
from homodistil_hf.experiments.distill import distill
from homodistil_hf.experiments.family import FAMILY_FILE, distill_family
from homodistil_hf.files.checkpoints import last_checkpoint
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import read_json_object, write_json

RECORD = Path("docs/results/family.json")
BASE = Path("examples/sweeps/sizes.json")
STUDENTS = ("macs=0.5", "macs=0.25", "macs=0.125")
CHAIN, ALONE, AS_MANY = "from the one before", "alone", "alone, as many tokens as the family so far"
_OTHERS = QUIET | {"save_strategy": "steps", "save_steps": 50, "per_device_train_batch_size": 16}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/family"))
    parser.add_argument("--max_steps", type=int, default=150, help="of each member, and of each run alone")
    options = parser.parse_args()
    base = base_settings()
    runs = []
    for variant, students, num_steps in _runs(options.max_steps):
        folder = options.output_dir / f"{variant.split(',')[0].replace(' ', '-')}-{students[-1]}-{num_steps}"
        runs += _rows(variant, students, _run(base, folder, students, num_steps), base)
        facts = {"settings": base, "max_steps": options.max_steps, "machine": machine_facts(), "runs": runs}
        write_json(RECORD, facts)


def base_settings() -> dict[str, Any]:
    """What all runs share."""
    return read_json_object(BASE, str(BASE))["base"] | _OTHERS


def _runs(max_steps: int) -> Iterator[tuple[str, Sequence[str], int]]:
    """The family; then each size alone, but for the first, whose member is such a run; then with all its tokens."""
    yield CHAIN, STUDENTS, max_steps
    for student in STUDENTS[1:]:
        yield ALONE, [student], max_steps
    for number, student in enumerate(STUDENTS[1:], start=2):
        yield AS_MANY, [student], number * max_steps


def _run(base: Mapping[str, Any], folder: Path, students: Sequence[str], num_steps: int) -> Mapping[str, Any]:
    done = folder / "results.json"
    if done.is_file():
        return read_json_object(done, str(done))
    is_family = len(students) > 1
    resumes = (folder / FAMILY_FILE).is_file() if is_family else last_checkpoint(folder) is not None
    values = {
        **base,
        "student": list(students) if is_family else students[0],
        "output_dir": str(folder),
        "max_steps": num_steps,
        "resume_from_checkpoint": "last" if resumes else None,
        "overwrite_output_dir": True,
    }
    return (distill_family if is_family else distill)(run_of(values, "the study"), print)


def _rows(
    variant: str, students: Sequence[str], results: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    tokens_a_step = settings["per_device_train_batch_size"] * settings["max_seq_length"]
    teacher, *models = results["models"]
    for student, model, run in zip(students, models, results.get("members", [results]), strict=True):
        facts = {"variant": variant, "student": student, "plan": run["plan"]}
        facts |= {"num_tokens": run["num_steps"] * tokens_a_step}
        facts |= {name: model[name] for name in ("num_parameters", "encoder_macs", "kl", "mlm_loss", "mlm_accuracy")}
        yield facts | {"teacher_macs": teacher["encoder_macs"], "seconds": run["time_s"]}


if __name__ == "__main__":
    main()
