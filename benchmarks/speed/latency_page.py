"""Write docs/latency.md from docs/results/latency.json; `python -m benchmarks.speed.latency` records the figures."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path("docs/results/latency.json")
PAGE = Path("docs/latency.md")
STUDENT = "homobert-tiny"
TEACHER = "bert-base"

TEXT = """# Latency

Written by `python -m benchmarks.speed.latency_page` from `docs/results/latency.json`, a record of
`python -m benchmarks.speed.latency`: HomoBERT-tiny beside BERT-base, random weights, float32, embeddings and encoder
without a head.

## Measure models on your machine

    homodistil latency runs/my-student/student --teacher google-bert/bert-base-uncased
    homodistil latency standard compact --lengths 128 --batch_sizes 1 --backends onnxruntime --output out.json

Exports of both formats work. Models take turns (A B C A B C …), so that whatever else the machine does slows all of
them; a speed-up is the ratio of medians, with the quartiles of the rounds' own ratios. Outputs of every backend are
compared with torch's before anything is timed. ONNX Runtime needs `pip install 'homodistil-hf[onnx]'`; without it, or
where `torch.compile` finds no C++ compiler, that part of the table says so.

## Plan a student for a latency

    homodistil plan --teacher google-bert/bert-base-uncased --latency_ms 5 --length 128 --backend onnxruntime

Attention blocks, FFN blocks and embeddings of random weights are measured once over a grid of widths (a minute or two
on a quiet machine) and kept in the cache, by processor, threads, versions and conditions. What a plan takes is
interpolated between them and summed; the largest plan within the budget is then run once, and both times are printed.
`"student": "latency_ms=5,length=128,backend=onnxruntime"` does the same in the settings of a run: the widths are
resolved when it starts, stand in every checkpoint, and are read from there when it goes on, wherever that is. The
methods with fewer layers (`distilbert`, `shallow`) take no such budget: it is measured with all of them.

## ONNX graphs

Attention is exported as two products and a softmax, so that ONNX Runtime's own fusions find it free of checks for NaN.
All graph optimisations are on but one: the fusion of addition and LayerNormalization, whose CPU kernel is no vector
code. Packing query, key and value into one product, and the fused operators `Attention` and `MultiHeadAttention`, made
no difference to the processor time of either model at batch 1, length 128.

## Figures
"""


def main() -> None:
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(TEXT + "\n".join(figures(results)) + "\n", encoding="utf-8")


def figures(results: dict[str, Any]) -> list[str]:
    """Tables of what was recorded."""
    machine = results["machine"]
    versions = machine["versions"]
    lines = [
        "",
        f"{machine['processor']}, {machine['num_threads']} threads of {machine['num_cores']} cores, torch "
        f"{versions['torch']}, onnxruntime {versions['onnxruntime']}. *Load* is how many processes wanted those cores "
        "while it was measured; above the number of cores, other work took part of both models' time.",
        "",
        f"| backend | batch | length | {TEACHER}, ms | {STUDENT}, ms | speed-up | quartiles | load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(cell_line(cell) for cell in results["cells"]),
        "",
        "ONNX Runtime at batch 1, length 128 on one core, by **processor time**, which other work hardly changes:",
        "",
        *one_core_lines(results["one_core"]),
        "",
        f"| operator | {TEACHER}, ms | {STUDENT}, ms |",
        "| --- | --- | --- |",
        *operator_lines(results["operators_ms"]),
    ]
    return lines


def cell_line(cell: dict[str, Any]) -> str:
    place = f"| {cell['backend']} | {cell['batch_size']} | {cell['length']} |"
    if "skipped" in cell:
        return f"{place} {cell['skipped']} | | | | |"
    medians = (f"{cell['latency'][name]['median_ms']:.2f}" for name in (TEACHER, STUDENT))
    ratio = cell["speed_up"][STUDENT]
    spread = f"{ratio['lower_quartile']:.2f} – {ratio['upper_quartile']:.2f}"
    return f"{place} {' | '.join(medians)} | {ratio['ratio']:.2f}× | {spread} | {cell['load_average']} |"


def one_core_lines(one_core: dict[str, Any]) -> list[str]:
    times = one_core["processor_time"]
    ratio = one_core["speed_up"][STUDENT]
    return [
        f"{TEACHER} {times[TEACHER]['median_ms']:.2f} ms, {STUDENT} {times[STUDENT]['median_ms']:.2f} ms: "
        f"**{ratio['ratio']:.2f}×** ({ratio['lower_quartile']:.2f} – {ratio['upper_quartile']:.2f})"
    ]


def operator_lines(operators: dict[str, dict[str, float]]) -> list[str]:
    teacher, student = operators[TEACHER], operators[STUDENT]
    shown = [name for name in student if student[name] >= 0.01 * sum(student.values())]
    return [f"| {name} | {teacher.get(name, 0):.2f} | {student[name]:.2f} |" for name in shown]


if __name__ == "__main__":
    main()
