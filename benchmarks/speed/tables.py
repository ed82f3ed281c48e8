"""Results of a benchmark as Markdown tables, and the parts of a step as a bar chart."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.speed.profiles import PARTS
from benchmarks.speed.whole_run import FULL_WIDTH, LOOPS, ONE_SHOT
from homodistil_hf.tables import markdown_table, padded


def format_bench(results: Mapping[str, Any]) -> str:
    """All tables of what `run_bench` gave; medians, with the quartiles in brackets."""
    sections = [_title(results["settings"]), _losses(results["losses"]), _variants(results)]
    return "\n\n".join([*sections, _schedule(results["schedule"]), _parts(results["variants"])])


def _title(settings: Mapping[str, Any]) -> str:
    attention = "on" if settings["attention_weight"] else "off"
    return (
        f"{settings['shape']} → {settings['student']}, batch {settings['batch_size']} × {settings['length']}, "
        f"{settings['dtype']} on {settings['device']}, attention term {attention}, {settings['importance_metric']}; "
        f"median (quartiles) of {settings['rounds']} interleaved steps"
    )


def _losses(losses: Mapping[str, Mapping[str, float]]) -> str:
    """The first step's losses, which all variants must agree on."""
    names = sorted({name for terms in losses.values() for name in terms})
    rows = [(variant, *(f"{terms[name]:.6g}" for name in names)) for variant, terms in losses.items()]
    return table(("first step", *names), rows)


def _variants(results: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            spread(variant["tokens_per_second"], "{:,.0f}"),
            *(spread(variant["speedups"].get(loop), "{:.2f}") for loop in LOOPS),
            spread(variant["useful_flops_fraction"], "{:.0%}"),
            *_beside_the_clock(variant),
            f"{variant['peak_memory_bytes'] / 1e6:,.0f} MB",
        )
        for name, variant in results["variants"].items()
    ]
    limits = [
        (name, *[""] * (1 + len(LOOPS)), f"{spread(rates, '{:,.0f}', scale=1e-9)} GFLOP/s", "", "", "")
        for name, rates in results["limits"].items()
    ]
    header = ("variant", "tokens/s", *(f"× {loop}" for loop in LOOPS), "useful FLOPs / limit")
    return table((*header, "trainers apart", "GPU at work", "peak memory"), rows + limits)


def _beside_the_clock(variant: Mapping[str, Any]) -> tuple[str, str]:
    """How far the trainers of a variant are apart, and the part of a step in which the GPU works.

    Dashes where there is one trainer, no GPU, or an older record.
    """
    medians, seconds = variant.get("instance_seconds", []), variant.get("device_seconds")
    apart = f"{max(medians) / min(medians) - 1:.0%}" if len(medians) > 1 else "–"
    return apart, "–" if seconds is None else f"{seconds / variant['step_seconds']['median']:.0%}"


def _schedule(schedule: Mapping[str, Any]) -> str:
    others = (*LOOPS, ONE_SHOT, FULL_WIDTH)
    rows = [
        (
            name,
            spread(entry["tokens_per_second"], "{:,.0f}"),
            *(spread(entry["speedups"].get(other), "{:.2f}") for other in others),
            f"{entry['seconds']['median'] / 3600:,.2f}",
        )
        for name, entry in schedule.items()
        if name != "pruning"
    ]
    pruning = schedule["pruning"]
    header = ("whole schedule", "tokens/s", *(f"× {other.removeprefix('ours, ')}" for other in others), "hours")
    return (
        table(header, rows)
        + f"\n\nScores and {pruning['num_choices']:,} choices of masks, with the slicing, together take "
        f"{pruning['fraction']:.2%} of the whole."
    )


def _parts(variants: Mapping[str, Any]) -> str:
    names = list(next(iter(variants.values()))["part_seconds"])
    rows = []
    for variant, facts in variants.items():
        total = sum(facts["part_seconds"].values())
        rows.append((variant, *(f"{facts['part_seconds'][name] / total:.1%}" for name in names)))
    return table(("share of a step", *names), rows)


def spread(values: Mapping[str, float] | None, form: str, *, scale: float = 1.0) -> str:
    """A median with its quartiles, times `scale`, each in this format; a dash where nothing was measured."""
    if values is None:
        return "–"
    median, q1, q3 = (form.format(scale * values[name]) for name in ("median", "q1", "q3"))
    return f"{median} ({q1}–{q3})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with columns of even width."""
    headings, *lines = padded([header, *rows], names=range(len(header)))
    return "\n".join(markdown_table(headings, lines, rules=["-" * len(heading) for heading in headings]))


def draw_parts(results: Mapping[str, Any], file: Path) -> None:
    """Draw the parts of every variant's step, stacked; needs matplotlib (the extra `report`)."""
    from matplotlib.figure import Figure

    variants = results["variants"]
    figure = Figure(figsize=(9, 1.2 + 0.5 * len(variants)), dpi=110)
    axes = figure.subplots()
    left = dict.fromkeys(variants, 0.0)
    for part in PARTS:
        milliseconds = [1000 * facts["part_seconds"][part] for facts in variants.values()]
        axes.barh(list(variants), milliseconds, left=list(left.values()), label=part)
        left = {name: left[name] + value for name, value in zip(variants, milliseconds, strict=True)}
    axes.invert_yaxis()
    axes.set_xlabel("ms a step (profiled, median)")
    axes.set_title(_title(results["settings"]).partition(", sensitivity")[0], fontsize="medium")
    axes.legend(fontsize="small", ncol=2)
    figure.tight_layout()
    figure.savefig(file)
