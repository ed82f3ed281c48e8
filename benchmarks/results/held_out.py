"""Students of a sweep on all held-out text, with masks of another seed.

    python -m benchmarks.sweep examples/sweeps/sizes.json
    python -m benchmarks.results.held_out runs/sweeps/sizes --variants half quarter eighth

The sweeps evaluate on a sample of the held-out text, on which learning rates, shapes and the end of pruning were
chosen too. This script takes every block. A measurement lies beside its student and is not repeated; --results has all
of a sweep, and students that the file has already stay in it.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.results.sweep_models import Model, models_of
from benchmarks.sweep.folder import SweepFolder, read_records, trained
from homodistil_hf.evaluation import evaluate_discrepancy
from homodistil_hf.files.folders import write_text
from homodistil_hf.files.provenance import machine_facts

EVERY_BLOCK = {"max_eval_blocks": 1_000_000, "pseudo_perplexity_blocks": 0}
MEASURED = ("kl", "agreement", "mlm_accuracy", "mlm_loss", "num_blocks", "num_masked_tokens")


def measure(model: Model, teacher: Path, eval_data: list[str], mask_seed: int) -> dict[str, Any]:
    """Variant, other axes and seed of a student, and its figures of `MEASURED` beside its teacher."""
    settings = {"eval_data": eval_data, "mask_seed": mask_seed} | EVERY_BLOCK
    places = {"teacher": teacher, "output_dir": model.evaluations}
    found = evaluate_discrepancy(model.folder, settings=settings, say=print, **places)["discrepancy"]
    place = {"variant": model.variant, "axes": model.axes, "seed": model.seed}
    return place | {name: found[name] for name in MEASURED}


def measured_before(results: Path, facts: Mapping[str, Any]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Place → student, of a file that may be missing and must say the same of masks and blocks."""
    content = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else dict(facts)
    others = {name: content[name] for name in facts if content[name] != facts[name]}
    if others:
        raise ValueError(f"--results {results} is of {others}, not of {dict(facts)}; name another file")
    return {place(model): model for model in content.get("models", [])}


def place(model: Mapping[str, Any]) -> tuple[Any, ...]:
    """Variant, other axes and seed of a student."""
    return model["variant"], model["axes"], model["seed"]


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep_folder", type=Path, help="output of a sweep")
    parser.add_argument("--variants", nargs="+", required=True)
    parser.add_argument("--run_seeds", nargs="+", type=int, help="only students of runs with these seeds")
    parser.add_argument("--mask_seed", type=int, default=1234)
    parser.add_argument("--results", type=Path)
    given = parser.parse_args(words)
    results = given.results or Path("docs/results/held_out", f"{given.sweep_folder.name}.json")
    teacher, *students = models_of(given.sweep_folder, given.variants, given.run_seeds)
    records = trained(read_records(SweepFolder(given.sweep_folder).records))
    settings = next(one["settings"] for one in records if one["variant"] in given.variants)
    results.parent.mkdir(parents=True, exist_ok=True)
    facts = {"sweep": given.sweep_folder.name, "mask_seed": given.mask_seed}
    facts |= {"num_chosen_on": settings["max_eval_blocks"]}
    models = measured_before(results, facts)
    for student in students:
        found = measure(student, teacher.folder, settings["eval_data"], given.mask_seed)
        models[place(found)] = found | {"machine": machine_facts()}
        in_order = sorted(models.values(), key=place)
        write_text(results, json.dumps(facts | {"models": in_order}, indent=1) + "\n")


if __name__ == "__main__":
    main()
