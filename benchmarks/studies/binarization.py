"""One bit a weight: the worth of the method's parts and of narrow students; the speed of bits.

    python -m benchmarks.studies.binarization kernel    # minutes, on a quiet machine

The row of one set is of this file at commit 4419268, by the commands on the page. The other rows and the picture are
of benchmarks/binarization.py at commit 7db6fe1.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from benchmarks.studies.study import Study
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.methods.binarization.binarizing import calibrate, to_binary, to_packed
from homodistil_hf.methods.binarization.bit_products import multiply_bits
from homodistil_hf.models.onnx_graphs import export_onnx, onnx_runner
from homodistil_hf.plans.latency import FirstOutput, Pass, figures, model_inputs, time_in_turns
from homodistil_hf.tables import markdown_table

from ..spread import Spread

PICTURE = Path("docs/results/studies/binarization.png")
FLOAT = "float"
RUNGS = ("one set, one step", "+ two sets", "+ elastic", "+ multi-distillation")
LINEARS = {"attention": "attention.self.query", "FFN, first": "intermediate.dense", "FFN, second": "output.dense"}
LENGTH, SHORT = 128, 2
MODELS = {
    "BERT-base": (12, 768, 64, LENGTH),
    "6 × 384": (6, 384, 32, LENGTH),
    "6 × 192": (6, 192, 32, LENGTH),
    f"6 × 192, {SHORT} tokens": (6, 192, 32, SHORT),
}
"""Layers, hidden size and head size of whole models, whose FFN is four times as wide; tokens of the row."""
BITS = (8, 4, 1)
"""Of activations; 2 take the way of 4."""
FLOATS = ("ONNX Runtime", "ONNX Runtime, int8", "torch")
"""What bits are timed in turns with; all ratios are to the first one."""
Rows = Mapping[str, Mapping[str, Any]]


def run_kernel(options: argparse.Namespace) -> dict[str, Any]:
    """Time whole models, and linear layers of the first one, on one core: float32, int8, and bits multiplied."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    cases: dict[str, Any] = {}
    for name, (num_layers, hidden_size, head_size, length) in MODELS.items():
        config = BertConfig(
            num_hidden_layers=num_layers,
            hidden_size=hidden_size,
            num_attention_heads=hidden_size // head_size,
            intermediate_size=4 * hidden_size,
        )
        model = BertForSequenceClassification(config).eval()
        inputs = model_inputs(config, 1, length)
        packed = {bits: _packed(model, inputs, bits) for bits in BITS}
        if not cases:
            for linear, place in LINEARS.items():
                layer: Any = model.bert.encoder.layer[0].get_submodule(place)
                forms = {bits: one.bert.encoder.layer[0].get_submodule(place) for bits, one in packed.items()}
                values = torch.randn(1, length, layer.in_features)
                title = f"{linear} {layer.in_features} → {layer.out_features}"
                cases[title] = timed(title, layer, forms, (values,), options)
        forms = {bits: FirstOutput(one) for bits, one in packed.items()}
        cases[name] = timed(name, FirstOutput(model), forms, inputs, options)
    return {"num_rounds": options.num_rounds, "cases": cases}


def _packed(model: BertForSequenceClassification, inputs: Sequence[torch.Tensor], bits: int) -> Any:
    binary = to_binary(model, activation_bits=bits)
    calibrate(binary, dict(zip(("input_ids", "attention_mask"), inputs, strict=True)))
    packed = to_packed(binary)
    if not multiply_bits(packed):
        raise ValueError("bits can't be multiplied here, as there is no C compiler; install one")
    return packed


def timed(
    name: str,
    model: nn.Module,
    packed: Mapping[int, nn.Module],
    inputs: Sequence[torch.Tensor],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Time a float model in `FLOATS` and its forms with so many bits, in turns, on one core."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        graph, int8 = Path(folder, "model.onnx"), Path(folder, "int8.onnx")
        export_onnx(model, inputs, graph)
        # shapes that torch has inferred would contradict the quantizer's
        loaded = onnx.load(graph)
        del loaded.graph.value_info[:]
        onnx.save(loaded, graph)
        quantize_dynamic(graph, int8, per_channel=True)
        runners: list[Callable[..., object]] = [onnx_runner(path, num_threads=1) for path in (graph, int8)]
        runners += [model, *packed.values()]
        names = [*FLOATS, *map(form_named, packed)]
        passes: dict[str, Pass] = {form: partial(run, *inputs) for form, run in zip(names, runners, strict=True)}
        print(f"timing {name}", flush=True)
        found = figures(time_in_turns(passes, num_rounds=options.num_rounds))
    ratios = {form: round(one["ratio"], 2) for form, one in found["speed_up"].items()}
    print(f"timed {name}, times as fast as {FLOATS[0]}: {ratios}", flush=True)
    return found


def form_named(bits: int) -> str:
    """The name of a form with so many bits of activations."""
    return f"{bits} bits" if bits > 1 else "1 bit"


def ladder_table(rows: Rows) -> list[str]:
    """Scores × 100 of each rung over its seeds, and the share that it keeps of the mean of its own float models."""
    table = pd.DataFrame(rows.values())
    tasks = list(dict.fromkeys(table["task"]))
    floats = {task: table[table["task"] == task][FLOAT].iloc[-1] for task in tasks}
    cells = [[FLOAT, *(f"{100 * floats[task]:.1f}" for task in tasks), "100.0%"]]
    for name in RUNGS:
        found = {task: table[(table["task"] == task) & (table["rung"] == name)]["score"].tolist() for task in tasks}
        scores = [f"{Spread.of([100 * score for score in found[task]]):.1f}" if found[task] else "–" for task in tasks]
        own = table[table["rung"] == name].groupby("task")[FLOAT].first()
        kept = fmean(map(fmean, found.values())) / own.mean() if all(found.values()) else None
        cells.append([name, *scores, "–" if kept is None else f"{kept:.1%}"])
    return markdown_table(["", *tasks, "mean kept"], cells)


def narrow_rows(rows: Rows) -> pd.DataFrame:
    """A row a task, model and form."""
    found = []
    for key, row in rows.items():
        task, name = key.split(", ")
        forms = {FLOAT: (row[FLOAT], row["float_bytes"]), "bits": (row["score"], row["size_bytes"])}
        for form, (score, size) in forms.items():
            facts = {"task": task, "model": f"{name}, {form}", "score": score, "size_mb": size / 1e6}
            found.append(facts | {"latency_ms": row["latency"][form]["median_ms"]})
    return pd.DataFrame(found)


def narrow_table(rows: Rows) -> list[str]:
    """A row a model: each task's score; means of bytes and latency, as models differ in their heads alone."""
    cells, table = [], narrow_rows(rows)
    for name, found in table.groupby("model", sort=False):
        scores = [f"{100 * score:.1f}" for score in found["score"]]
        cells.append([str(name), *scores, f"{found['size_mb'].mean():.1f}", f"{found['latency_ms'].mean():.1f}"])
    lines = markdown_table(["model", *table["task"].unique(), "MB", "ms a sequence of 128"], cells)
    return [f"![Scores against size and latency](results/studies/{PICTURE.name})", "", *lines]


def kernel_table(found: Mapping[str, Any]) -> list[str]:
    """Median ms of float32 in ONNX Runtime; times as fast: ratios of medians, quartiles of the ratios of rounds."""
    first, *others = [*FLOATS, *map(form_named, BITS)]
    cells = []
    for name, case in found["cases"].items():
        ratios = [
            "{ratio:.1f} ({lower_quartile:.1f} – {upper_quartile:.1f})".format(**case["speed_up"][form])
            for form in others
        ]
        cells.append([name, f"{case['latency'][first]['median_ms']:.2f}", *ratios])
    return markdown_table(["", f"{first}, ms", *others], cells)


TABLES = {"ladder": ladder_table, "narrow": narrow_table, "kernel": kernel_table}
STUDY = Study(
    Path("docs/results/binarization.json"),
    Path("docs/binarization.md"),
    lambda record: {part: table(record[part]) for part, table in TABLES.items() if part in record},
)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", choices=["kernel"])
    parser.add_argument("--num_rounds", type=int, default=20, help="timed rounds")
    found = run_kernel(parser.parse_args(arguments))
    record = STUDY.read() | {"kernel": found, "machine, kernel": machine_facts()}
    STUDY.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    STUDY.page.write_text(STUDY.page_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
