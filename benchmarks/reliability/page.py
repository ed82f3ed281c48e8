"""Write the figures of docs/reliability.md from the JSON files in docs/results/.

    python -m benchmarks.reliability.page

Between a pair of markers, `<!-- soak -->` and `<!-- /soak -->`, stands what docs/results/soak.json says; nothing there
is typed in by hand. A file that is not there yet is said to be missing.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path("docs/reliability.md")
FOLDER = Path("docs/results")
COMMANDS = {
    "soak": "python -m benchmarks.reliability.soak --num_kills 60 --results docs/results/soak.json",
    "fuzz": "python -m benchmarks.reliability.fuzz --cases 104000 --seed 0 --results docs/results/fuzz.json",
    "scaling": "python -m benchmarks.reliability.scaling",
}
MB = 1e6


def main() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in SECTIONS:
        page = filled(page, name, text_of(name))
    PAGE.write_text(page, encoding="utf-8")


def filled(page: str, name: str, text: str) -> str:
    """The page with a text between the markers of a name."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
    page, num_places = pattern.subn(lambda match: f"{match[1]}\n{text}\n\n{match[2]}", page)
    if num_places != 1:
        raise ValueError(f"{PAGE} has {num_places} places marked {name}; expected one")
    return page


def text_of(name: str) -> str:
    """The figures of a file, and the command that makes it."""
    source = name.split(":")[0]
    file = FOLDER / f"{source}.json"
    if not file.is_file():
        return f"*Not measured yet: `{COMMANDS[source]}` writes `{file.name}`.*"
    return SECTIONS[name](json.loads(file.read_text(encoding="utf-8")))


def soak(results: dict[str, Any]) -> str:
    rows = [f"| {moment} | {count} |" for moment, count in results["kills"].items()]
    return "\n".join(
        [
            f"`{COMMANDS['soak']}`: **{results['num_kills']} kills** with SIGKILL in {results['num_runs']} runs, "
            f"**{results['num_bytes_lost']} bytes** of saved checkpoints lost, **{results['num_differences']} "
            f"differences** in {results['num_compared']:,} values compared with the run that was left alone "
            f"(weights, optimizer, masks, scores, logs, export).",
            "",
            "| moment of the kill | kills |",
            "| --- | --- |",
            *rows,
        ]
    )


def fuzz(results: dict[str, Any]) -> str:
    counts = {
        name: [found["cases"], found["successes"], found["own_errors"], len(found["failures"])]
        for name, found in results["targets"].items()
    }
    rows = [f"| {name} | {' | '.join(f'{count:,}' for count in row)} |" for name, row in counts.items()]
    return "\n".join(
        [
            f"`{COMMANDS['fuzz']}`: **{results['cases']:,} cases**, {results['successes']:,} successes, "
            f"{results['own_errors']:,} errors of our own, **{results['num_failures']} failures** (a traceback from "
            "inside, a hang, or memory without bounds).",
            "",
            "| what is fed | cases | successes | own errors | failures |",
            "| --- | --- | --- | --- | --- |",
            *rows,
        ]
    )


def scaling(results: dict[str, Any]) -> str:
    settings, steps = results["settings"], results["worlds"]["2"][0]["steps"]
    wrong = results["differences"]
    num_steps = sum(len(rank["steps"]) for ranks in results["worlds"].values() for rank in ranks)
    compactions = [step["step"] + 1 for step in steps if step["compacted"]]
    return "\n".join(
        [
            f"`{COMMANDS['scaling']}`, {settings['num_steps']} steps of {settings['global_batch']} rows, "
            f"`{settings['student']}`, gloo, one thread a rank, {results['machine']['num_cores']} cores. Of "
            f"{num_steps} steps (all ranks of 1, 2 and 4) so many were not as on paper:",
            "",
            f"- {wrong['num_parameters']} in the number of trained parameters, which follows from the schedule;",
            f"- {wrong['gradients']} in the bytes of gradients: 4 × parameters;",
            f"- {wrong['counts']} in those of the counts, {wrong['guard']} in those of the guard;",
            f"- {wrong['wrap']} in those of wrapping the model again after a compaction: 2 × (4 × new parameters + "
            "buffers).",
            "",
            f"Compactions came after steps {', '.join(map(str, compactions))}, as on paper.",
            "",
            *message_table(results),
            "",
            *rank_table(results),
        ]
    )


def message_table(results: dict[str, Any]) -> list[str]:
    """What one rank hands over, by purpose, in the first and the last step and in a compaction."""
    steps = results["worlds"]["2"][0]["steps"]
    compacted = next(step for step in steps if step["compacted"])
    purposes = sorted({purpose for step in steps for purpose in step["traffic"]})
    rows = [
        f"| {purpose} | {message(steps[0], purpose)} | {message(compacted, purpose)} | {message(steps[-1], purpose)} |"
        for purpose in purposes
    ]
    return [
        "| bytes (calls) that a rank of two hands over | first step | first compaction | last step |",
        "| --- | --- | --- | --- |",
        *rows,
    ]


def message(step: dict[str, Any], purpose: str) -> str:
    found = step["traffic"].get(purpose)
    return f"{found['bytes']:,} ({found['calls']})" if found else "–"


def rank_table(results: dict[str, Any]) -> list[str]:
    """Rows and times of each number of ranks."""
    rows = []
    for size, ranks in results["worlds"].items():
        steps = [step for rank in ranks for step in rank["steps"]]
        compactions = [step["finish_seconds"] for step in steps if step["compacted"]]
        seconds = [step["seconds"] for step in steps]
        rows.append(
            f"| {size} | {mean([rank['rows']['table'] for rank in ranks]):.0f} | "
            f"{mean([rank['rows']['stream'] for rank in ranks]):.0f} | "
            f"{mean([rank['rows']['stream_batches'] for rank in ranks]):.0f} | {mean(seconds):.2f} | "
            f"{mean(compactions):.2f} |"
        )
    return [
        "| ranks | rows of a table read by a rank | rows of a stream read | … of which it keeps | a step, s | "
        "a compaction, s |",
        "| --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
        f"Times are those of a busy machine (load {results['machine']['load_average']} on "
        f"{results['machine']['num_cores']} cores) on which ranks take turns: they say nothing about speed-up.",
    ]


def large_run(results: dict[str, Any]) -> str:
    run = results["paper"]["large_run"]
    volume, sent, messages = (run[name] for name in ("gradient_bytes", "bytes_sent_a_rank", "num_gradient_messages"))
    rows = [
        f"| {network} | {1000 * times['first']:.1f} | {1000 * times['mean']:.1f} | {1000 * times['last']:.1f} |"
        for network, times in run["communication_s"].items()
    ]
    return "\n".join(
        [
            f"{run['settings']['teacher']} → {run['settings']['student']}, {run['settings']['num_steps']:,} steps, "
            f"{run['num_ranks']} ranks of {run['tokens_a_rank']:,} tokens a step. Gradients are "
            f"{volume['first'] / MB:.0f} MB a step at first, {volume['last'] / MB:.0f} MB from the plan on and "
            f"{volume['mean'] / MB:.0f} MB on average: {run['all_steps_bytes_fraction']:.0%} of what an unpruned "
            f"student would send, in about {messages['first']} messages at first and {messages['last']} at the end. A "
            f"rank sends {sent['first'] / MB:.0f} → {sent['last'] / MB:.0f} MB a step. {run['num_compactions']} "
            "compactions.",
            "",
            "| one step, ms | first step | mean | last step |",
            "| --- | --- | --- | --- |",
            *rows,
            f"| matrix products at {run['gpu_tflops']:.0f} TFLOP/s a GPU | {1000 * run['compute_s']['first']:.1f} | | "
            f"{1000 * run['compute_s']['last']:.1f} |",
        ]
    )


def mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "soak": soak,
    "fuzz": fuzz,
    "scaling": scaling,
    "scaling:large_run": large_run,
}

if __name__ == "__main__":
    main()
