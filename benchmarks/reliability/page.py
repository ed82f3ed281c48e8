"""Write the figures of docs/reliability.md, which stand between markers, from the JSON files in docs/results/.

python -m benchmarks.reliability.page
"""

import json
from pathlib import Path
from textwrap import shorten
from typing import Any

from transformers import BertConfig

from benchmarks.marked_pages import fill_in
from benchmarks.speed.whole_run import course
from homodistil_hf import HomoDistilTrainingArguments
from homodistil_hf.models.cost import count_parameters
from homodistil_hf.models.widths import WidthPlan, widths_of
from homodistil_hf.plans.resolve import resolve_plan
from homodistil_hf.tables import markdown_table

PAGE = Path("docs/reliability.md")
FOLDER = Path("docs/results")
NUM_STEPS = 28_000


def main() -> None:
    fill_in(PAGE, {"way": on_the_way()} | {name: text_of(name) for name in SECTIONS})


def text_of(name: str) -> str:
    """The text of a record."""
    return SECTIONS[name](json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))


def on_the_way() -> str:
    """What ranks add up in a run of BERT-base with the defaults."""
    config, run = BertConfig(), HomoDistilTrainingArguments(output_dir="unused", report_to="none")
    target, schedule = resolve_plan("homobert-tiny", config), run.pruning_schedule(NUM_STEPS)
    stretches = course(widths_of(config), target, schedule, multiple=run.width_multiple)
    sizes_mb = [4e-6 * trained_parameters(config, stretch.plan) for stretch in stretches]
    on_average = sum(size * one.num_steps for size, one in zip(sizes_mb, stretches, strict=True)) / NUM_STEPS
    return (
        f"On paper, from BERT-base to homobert-tiny in {NUM_STEPS:,} steps with the default window and interval: "
        f"gradients of {sizes_mb[0]:.0f} MB a step at first, {sizes_mb[-1]:.0f} MB from the plan on and "
        f"{on_average:.0f} MB on average, {on_average / sizes_mb[0]:.0%} of what an unpruned student would send. "
        f"Units are sliced off {len(sizes_mb) - 1} times, which adds {2 * sum(sizes_mb[1:]) / NUM_STEPS:.0f} MB a "
        "step on average."
    )


def trained_parameters(config: BertConfig, plan: WidthPlan) -> int:
    """Parameters of a masked-LM student and of its projections to the teacher's hidden size."""
    projections = (len(plan.layers) + 1) * plan.hidden_size * config.hidden_size
    return count_parameters(plan, config, head="masked_lm") + projections


def soak(results: dict[str, Any]) -> str:
    return (
        "`python -m benchmarks.reliability.soak --num_kills 60 --results docs/results/soak.json`: "
        f"**{results['num_kills']} kills** with SIGKILL in {results['num_runs']} runs, "
        f"**{results['num_bytes_lost']} bytes** of saved checkpoints lost, **{results['num_differences']} "
        f"differences** in {results['num_compared']:,} values compared with the run that was left alone "
        "(weights, optimizer, masks, scores, logs, export)."
    )


def fuzz(results: dict[str, Any]) -> str:
    return (
        "`python -m benchmarks.reliability.fuzz --only TARGET --cases CASES --results docs/results/fuzz.json` at "
        f"commit 2add466f, targets of `fuzz_given.py` and foreign names at 8947fc20, label_cells as mended behind it: "
        f"**{results['cases']:,} cases**, {results['successes']:,} successes, "
        f"{results['own_errors']:,} errors of our own, **{results['num_failures']} failures** (a traceback from "
        "inside, a hang, or memory without bounds)."
    )


_OF_FORMER_RANKS = "4 ranks, one killed"
"""A try whose end was the message of a watch over ranks; today torchrun ends the others."""


def load(results: dict[str, Any]) -> str:
    rows = [
        [
            found["what"],
            found["seconds"],
            f"{found['peak_bytes'] / 1e9:.1f}",
            shorten(found["line"].removeprefix("homodistil: ").partition(";")[0], 80, placeholder=" …")
            if found["status"]
            else "done",
        ]
        for found in results["tries"].values()
        if found["what"] != _OF_FORMER_RANKS
    ]
    return (
        f"`benchmarks/reliability/load.py` at commit ddd812c9: each once, on {results['machine']['num_cores']} busy "
        "cores, with one thread and at most 8 GB. Models are tiny where the row names no size. Peaks are of the "
        "largest process.\n\n"
    ) + table("what is given | seconds | peak, GB | how it ends", rows)


def scaling(results: dict[str, Any]) -> str:
    settings, steps = results["settings"], results["worlds"]["2"][0]["steps"]
    wrong = results["differences"]
    num_steps = sum(len(rank["steps"]) for ranks in results["worlds"].values() for rank in ranks)
    slicings = [step["step"] + 1 for step in steps if step["sliced"]]
    return f"""\
`benchmarks/reliability/scaling.py` at commit ddd812c9, {settings["num_steps"]} steps of {settings["global_batch"]} \
rows, `{settings["student"]}`, gloo, one thread a rank, {results["machine"]["num_cores"]} cores. Of {num_steps} steps \
(all ranks of 1, 2 and 4) so many were not as on paper:

- {wrong["num_parameters"]} in the number of trained parameters, which follows from the schedule;
- {wrong["gradients"]} in the bytes of gradients: 4 × parameters;
- {wrong["counts"]} in those of the counts;
- {wrong["wrap"]} in those of wrapping the model again when units are sliced off: 2 × (4 × new parameters + buffers).

Units were sliced off {len(slicings)} times, as on paper.

Speed-up was not measured: ranks took turns on a busy machine."""


def table(header: str, rows: list[list[Any]]) -> str:
    return "\n".join(markdown_table(header.split(" | "), [list(map(str, row)) for row in rows]))


SECTIONS = {"soak": soak, "fuzz": fuzz, "scaling": scaling, "load": load}

if __name__ == "__main__":
    main()
