"""Results of a benchmark as text: one row an arm, one a whole schedule."""

from collections.abc import Mapping, Sequence
from typing import Any

from homodistil_hf.tables import markdown_table, padded

_ARM_HEADER = ("arm", "tokens/s", "× reference", "useful FLOPs / limit", "peak memory")


_SCHEDULE_HEADER = ("whole schedule", "tokens/s", "× reference", "× never compacted", "hours")


def format_bench(results: Mapping[str, Any]) -> str:
    """Lay out what `run_bench` gave.

    Args:
        results: of `run_bench`.

    Returns:
        `str`: Markdown tables; medians, with the quartiles in brackets.
    """
    parts = [_title(results["settings"]), _losses(results["losses"]), _arms(results), _schedule(results["schedule"])]
    return "\n\n".join([*parts, _parts(results["arms"])])


def _title(settings: Mapping[str, Any]) -> str:
    attention = "on" if settings["attention_weight"] else "off"
    return (
        f"{settings['shape']} → {settings['student']}, batch {settings['batch_size']} × {settings['length']}, "
        f"{settings['dtype']} on {settings['device']}, attention term {attention}, "
        f"{settings['importance_metric']}; "
        f"median (quartiles) of {settings['rounds']} interleaved steps"
    )


def _losses(losses: Mapping[str, Mapping[str, float]]) -> str:
    """The first step's losses, which all arms must agree on."""
    names = sorted({name for terms in losses.values() for name in terms})
    rows = [(arm, *(f"{terms[name]:.6g}" for name in names)) for arm, terms in losses.items()]
    return table(("first step", *names), rows)


def _arms(results: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            spread(arm["tokens_per_second"], "{:,.0f}"),
            spread(arm.get("speedup"), "{:.2f}"),
            spread(arm["useful_flops_fraction"], "{:.0%}"),
            f"{arm['peak_memory_bytes'] / 1e6:,.0f} MB",
        )
        for name, arm in results["arms"].items()
    ]
    limits = [
        (name, "", "", f"{spread({key: value[key] / 1e9 for key in ('median', 'q1', 'q3')}, '{:,.0f}')} GFLOP/s", "")
        for name, value in results["limits"].items()
    ]
    return table(_ARM_HEADER, rows + limits)


def _schedule(schedule: Mapping[str, Any]) -> str:
    rows = [
        (
            name,
            spread(entry["tokens_per_second"], "{:,.0f}"),
            spread(entry["speedups"].get("reference"), "{:.2f}"),
            spread(entry["speedups"].get("ours, never compacted"), "{:.2f}"),
            f"{entry['seconds']['median'] / 3600:,.2f}",
        )
        for name, entry in schedule.items()
        if name != "pruning"
    ]
    pruning = schedule["pruning"]
    return (
        table(_SCHEDULE_HEADER, rows)
        + f"\n\nScores and masks, {pruning['num_choices']:,} choices of masks and {pruning['num_compactions']} "
        f"compactions together take {pruning['fraction']:.2%} of the whole."
    )


def _parts(arms: Mapping[str, Any]) -> str:
    names = list(next(iter(arms.values()))["part_seconds"])
    rows = []
    for arm, facts in arms.items():
        total = sum(facts["part_seconds"].values())
        rows.append((arm, *(f"{facts['part_seconds'][name] / total:.1%}" for name in names)))
    return table(("share of a step", *names), rows)


def spread(values: Mapping[str, float] | None, form: str) -> str:
    """A median with its quartiles.

    Args:
        values: `median`, `q1`, `q3`; None where nothing was measured.
        form: format of each number.

    Returns:
        `str`.

    Example:
    ```python
    >>> spread({"median": 2.0, "q1": 1.5, "q3": 2.25}, "{:.2f}")
    '2.00 (1.50–2.25)'

    ```
    """
    if values is None:
        return "–"
    median, q1, q3 = (form.format(values[name]) for name in ("median", "q1", "q3"))
    return f"{median} ({q1}–{q3})"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with columns of even width.

    Args:
        header: names of the columns.
        rows: as many cells each.

    Returns:
        `str`.

    Example:
    ```python
    >>> print(table(("a", "b"), [("x", "10")]))
    | a | b  |
    | - | -- |
    | x | 10 |

    ```
    """
    headings, *lines = padded([header, *rows], names=range(len(header)))
    return "\n".join(markdown_table(headings, lines, rules=["-" * len(heading) for heading in headings]))
