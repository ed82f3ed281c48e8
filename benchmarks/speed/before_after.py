"""Two checkouts of this project beside each other, in processes that take turns, on the same steps of a schedule.

    python -m benchmarks.speed.before_after ../before . --case teacher6x384-bfloat16 --moments 0 0.1 0.5
    python -m benchmarks.speed.before_after --runs ../before/runs/wikibooks_quarter runs/wikibooks_quarter

Each checkout measures with its own `benchmarks`: at a moment of the schedule the student has the widths, and if there
are any the masks, that this version gives it then. The second form notes how a run of `homodistil distill` ended with
each. Written to docs/results/core.json, under `speed` and `run`.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed import arms
from benchmarks.speed.bench import CASES
from benchmarks.speed.profiles import part_seconds, peak_bytes
from benchmarks.speed.settings import BenchSettings, make_workload
from benchmarks.speed.turns import GatedRun
from benchmarks.speed.whole_run import summary, way_of
from homodistil_hf.files.provenance import machine_facts

RESULTS = Path("docs/results/core.json")
WARMUP_STEPS, PROFILED_STEPS = 2, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", nargs="*", type=Path, help="before, after; none: measure this one, print JSON")
    parser.add_argument("--case", choices=list(CASES), default="teacher6x384-bfloat16")
    parser.add_argument("--moments", nargs="+", type=float, default=[0.0], help="shares of the steps")
    parser.add_argument("--batch_size", type=int, help="default: the case's")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each checkout")
    parser.add_argument("--num_steps", type=int, default=6, help="timed ones, at each moment, of each process")
    parser.add_argument("--runs", nargs=2, type=Path, help="finished runs, before and after, to be noted instead")
    given = parser.parse_args()
    own = {"batch_size": given.batch_size} if given.batch_size else {}
    settings = BenchSettings(**CASES[given.case] | own)
    if not given.checkouts and not given.runs:
        print(json.dumps({str(moment): measure(settings, moment, given.num_steps) for moment in given.moments}))
        return
    recorded = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    if given.runs:
        ends = [json.loads((folder / "results.json").read_text(encoding="utf-8")) for folder in given.runs]
        recorded["run"] = {"machine": machine_facts(), "settings": _same_settings(ends)}
        recorded["run"] |= {name: end["evaluation"] for name, end in zip(("before", "after"), ends, strict=True)}
    else:
        name = given.case + (f", batch {given.batch_size}" if own else "")
        recorded.setdefault("speed", {})[name] = {"machine": machine_facts(), **compared(given)}
    RESULTS.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")


def _same_settings(ends: Sequence[dict[str, Any]]) -> dict[str, Any]:
    before, after = ({name: value for name, value in end["settings"].items() if name != "output_dir"} for end in ends)
    if before != after:
        raise SystemExit(f"the runs have other settings: {before} and {after}")
    return after


def compared(given: argparse.Namespace) -> dict[str, Any]:
    """Moment → version → what was measured, over all processes."""
    names = dict(zip(("before", "after"), given.checkouts, strict=True))
    turns = [list(names)[:: (-1) ** number] for number in range(given.rounds)]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    words = ["--case", given.case, "--num_steps", str(given.num_steps)]
    words += ["--batch_size", str(given.batch_size)] * bool(given.batch_size)
    words += ["--moments", *map(str, given.moments)]
    for name in itertools.chain.from_iterable(turns):
        found[name].append(started_in(names[name], words))
        print(name, {moment: facts["seconds"] for moment, facts in found[name][-1].items()}, flush=True)
    return {
        "settings": {"case": given.case, "rounds": given.rounds, "num_steps": given.num_steps},
        "moments": {
            str(moment): {name: joined([one[str(moment)] for one in runs]) for name, runs in found.items()}
            for moment in given.moments
        },
    }


def started_in(checkout: Path, words: Sequence[str]) -> dict[str, Any]:
    """What a process of a checkout measures."""
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve()), "THP_MEM_ALLOC_ENABLE": "1"}
    command = [sys.executable, str(Path(__file__).resolve()), *words]
    process = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(process.stdout.splitlines()[-1])


def measure(settings: BenchSettings, moment: float, num_steps: int) -> dict[str, Any]:
    """Steps at a moment of the schedule: seconds, the share of scores and masks, and the memory at its peak.

    The choice of masks that ends the moment's widths is shared out over their steps.
    """
    stretches = way_of(settings).stretches
    ends = itertools.accumulate(stretch.num_steps for stretch in stretches)
    index = next(i for i, end in enumerate(ends) if end > moment * settings.max_steps)
    work = make_workload(settings, num_steps=WARMUP_STEPS + num_steps + PROFILED_STEPS + 3)
    with tempfile.TemporaryDirectory() as folder:
        run = GatedRun("ours", arms.our_trainer(settings, work, stretches[index], Path(folder)))
        try:
            seconds = [run.turn() for _ in range(WARMUP_STEPS + num_steps)][WARMUP_STEPS:]
            parts = [part_seconds(run) for _ in range(PROFILED_STEPS)]
            peak = peak_bytes(run)
            # Before, masks were chosen at widths that stayed; how often units were removed is not in it.
            following = [vars(stretch).get("plan") for stretch in stretches[index + 1 : index + 2]]
            choices = [arms.choice_seconds(run.trainer, *filter(None, [plan])) for plan in following]
        finally:
            run.close()
    choice = sum(choices) / stretches[index].num_steps
    shares = [(part["scores"] + part["masks"] + choice) / (sum(part.values()) + choice) for part in parts]
    return {"seconds": seconds, "num_tokens": settings.num_tokens, "shares": shares, "peak_memory_bytes": peak}


def joined(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Several processes' figures as one."""
    return {
        "tokens_per_second": summary([one["num_tokens"] / value for one in runs for value in one["seconds"]]),
        "scores_and_masks_share": summary([value for one in runs for value in one["shares"]]),
        "peak_memory_bytes": max(one["peak_memory_bytes"] for one in runs),
    }


if __name__ == "__main__":
    main()
