"""The part of docs/results.md that comes from `benchmarks/compare.py`: two arms, one seed, wikibooks_*.json."""

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

ARM_NAMES = {"homodistil": "HomoDistil", "one_shot": "one-shot"}
HEAD = """## Older runs, with earlier defaults

One seed each, and no noise was measured with these defaults, so no verdict. These runs evaluate on 256 blocks drawn
from all held-out text, those of the sweeps on 256 blocks spread evenly over it. The distance to the sweeps above is
what learning rate, batch and today's defaults have brought together: to run them again, add
`"mlm_weight": 1, "hidden_weight": 1, "rotate_heads": false, "discrepancy_guard": true, "pruning_end_fraction": 0.5` to
the configs, with the shape as their `"student"`.
"""


def compared_sections(folder: Path) -> list[str]:
    sections = []
    for file in sorted(folder.glob("wikibooks_*.json")):
        results = json.loads(file.read_text(encoding="utf-8"))
        if "arms" not in results:  # not of benchmarks/compare.py
            continue
        plot_compared(results, file.with_suffix(".png"))
        sections.append(compared_section(file, results))
    return [HEAD, *sections] if sections else []


def compared_section(file: Path, results: dict[str, Any]) -> str:
    config, arms, machine = results["config"], results["arms"], results["machine"]
    some_arm = next(iter(arms.values()))
    tokens = some_arm["num_tokens"]
    macs = results["models"]["homodistil"]["encoder_macs"] / results["models"]["teacher"]["encoder_macs"]
    command = f"python -m benchmarks.results.compare examples/configs/{file.name} --arms {' '.join(arms)}"
    lines = [
        f"### `{config['student']}`, {macs:.2f} of the teacher's encoder MACs, {tokens / 1e6:.1f} million tokens",
        "",
        f"`{command}`",
        "",
        f"{some_arm['num_steps']:,} steps of {tokens // some_arm['num_steps']:,} tokens, learning rate "
        f"{config['learning_rate']:g}, bf16, seed {config['seed']}; plan `{json.dumps(some_arm['plan'])}`.",
        "",
        *compared_table(results),
        "",
        *compared_verdict(arms),
        "",
        f"![KL to the teacher over the steps](results/{file.stem}.png)",
        "",
        f"Machine: {machine['processor']}, {machine['num_threads']} thread of {machine['num_cores']} cores, torch "
        f"{machine['torch']}, transformers {machine['transformers']}, Python {machine['python']}. Training took "
        + ", ".join(f"{ARM_NAMES[name]} {arm['train_seconds'] / 60:.0f} min" for name, arm in arms.items())
        + " with evaluations, on a machine that was busy with other work: only ratios mean something.",
        "",
    ]
    return "\n".join(lines)


def compared_table(results: dict[str, Any]) -> list[str]:
    arms, models = results["arms"], results["models"]
    teacher = models["teacher"]
    rows = [
        "| model | parameters | encoder MACs a token | size | latency (batch 1 × 128) | KL | accuracy |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    measured = next(arm["teacher_evaluation"] for arm in arms.values() if arm["teacher_evaluation"])
    evaluations = {"teacher": measured} | {name: arm["evaluation"] for name, arm in arms.items()}
    for name, evaluation in evaluations.items():
        model = models[name]
        macs = model["encoder_macs"] / teacher["encoder_macs"]
        speedup = teacher["latency_ms"] / model["latency_ms"]
        rows.append(
            f"| {ARM_NAMES.get(name, name)} | {model['num_parameters'] / 1e6:.1f} M | "
            f"{model['encoder_macs'] / 1e6:.2f} M ({macs:.3f}) | {model['size_bytes'] / 1e6:.1f} MB | "
            f"{model['latency_ms']:.1f} ms ({speedup:.1f}×) | {evaluation['eval_kl']:.3f} | "
            f"{evaluation['eval_mlm_accuracy']:.3f} |"
        )
    return rows


def compared_verdict(arms: dict[str, Any]) -> list[str]:
    if set(arms) != set(ARM_NAMES):
        return []
    kl = {name: arm["evaluation"]["eval_kl"] for name, arm in arms.items()}
    gap = kl["one_shot"] - kl["homodistil"]
    better, worse = ("HomoDistil", "one-shot pruning") if gap > 0 else ("One-shot pruning", "HomoDistil")
    return [f"{better} ends {abs(gap):.3f} nats nearer to the teacher than {worse} (one seed)."]


def plot_compared(results: dict[str, Any], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(7, 4))
    for name, arm in results["arms"].items():
        points = [(entry["step"], entry["eval_kl"]) for entry in arm["evaluations"]]
        axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=ARM_NAMES[name])
    axes.set(xlabel="optimizer steps", ylabel="KL(teacher ‖ student), nats a masked token", ylim=(0, None))
    axes.set_title(f"{results['config']['student']}: discrepancy on held-out text")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)
