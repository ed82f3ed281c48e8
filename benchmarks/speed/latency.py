"""Record how fast HomoBERT-tiny runs beside BERT-base on this machine: docs/results/latency.json.

    python -m benchmarks.speed.latency                                    # the whole grid, on a quiet machine
    python -m benchmarks.speed.latency --backends onnxruntime --lengths 128 --batch_sizes 1

Both models have random weights, which don't matter for speed, and are written by the exporter and loaded from its
folders. The file also says what each kind of ONNX operator takes, and how well a latency table predicts the presets.
Cells that are not measured keep what the file has.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from homodistil_hf import PRESETS, WidthPlan, export_student
from homodistil_hf.evaluation.latency import LatencyGrid, compare_latencies, format_latencies
from homodistil_hf.models.loading import load_teacher
from homodistil_hf.models.widths import teacher_plan
from homodistil_hf.plans.latency.backends import FirstOutput, model_inputs
from homodistil_hf.plans.latency.budget import measure_plan
from homodistil_hf.plans.latency.onnx_graph import export_onnx, onnx_session
from homodistil_hf.plans.latency.parts import Conditions, latency_table
from homodistil_hf.plans.latency.timing import Latency, speed_ups

RESULTS = Path("docs/results/latency.json")
STUDENT = "homobert-tiny"
PROFILED = (1, 128)
PROFILED_PASSES = 20


def main() -> None:
    grid = LatencyGrid()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=grid.batch_sizes)
    parser.add_argument("--lengths", nargs="+", type=int, default=grid.lengths)
    parser.add_argument("--backends", nargs="+", default=grid.backends)
    parser.add_argument("--rounds", type=int, default=grid.num_rounds)
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--planner", action="store_true", help="also record how well a latency table predicts")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(options.num_threads)
    grid = LatencyGrid(options.batch_sizes, options.lengths, options.backends, num_rounds=options.rounds)
    recorded = json.loads(options.results.read_text(encoding="utf-8")) if options.results.is_file() else {}
    with tempfile.TemporaryDirectory() as folder:
        models = exported_models(Path(folder))
        recorded |= merged(recorded, compare_latencies(models, grid, say=lambda line: print(line, flush=True)))
        graphs = {name: Path(folder) / f"{name}.onnx" for name in models}
        for name, model in models.items():
            with torch.no_grad():
                export_onnx(FirstOutput(model.base_model), model_inputs(model.config, *PROFILED), graphs[name])
        recorded["operators_ms"] = {name: operators_ms(models[name], path) for name, path in graphs.items()}
        recorded["one_core"] = one_core_figures(models, graphs)
    if options.planner:
        recorded["planner"] = planner_figures(Conditions(backend="onnxruntime"))
    options.results.parent.mkdir(parents=True, exist_ok=True)
    options.results.write_text(json.dumps(recorded, indent=1) + "\n", encoding="utf-8")
    print(format_latencies(recorded))
    one_core = recorded["one_core"]["speed_up"][STUDENT]
    print(f"ONNX Runtime, batch 1, length 128, processor time of one core: {one_core['ratio']:.2f}×")


def exported_models(folder: Path) -> dict[str, PreTrainedModel]:
    """Export both models and load what was written."""
    torch.manual_seed(0)
    for name, config in (("bert-base", BertConfig()), (STUDENT, stock_config(PRESETS[STUDENT]))):
        export_student(BertForMaskedLM(config), folder / name)
    return {name: load_teacher(str(folder / name)) for name in ("bert-base", STUDENT)}


def stock_config(plan: WidthPlan) -> BertConfig:
    """Configuration of a stock BERT of a uniform plan, of BERT's own vocabulary."""
    layer = plan.layers[0]
    return BertConfig(
        hidden_size=plan.hidden_size,
        num_hidden_layers=len(plan.layers),
        num_attention_heads=layer.num_attention_heads,
        intermediate_size=layer.intermediate_size,
    )


def merged(recorded: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    """Add new cells, with their date and how busy the machine was, to those that the file has."""
    now = {place(cell) for cell in results["cells"]}
    kept = [cell for cell in recorded.get("cells", []) if place(cell) not in now]
    about = {"date": f"{datetime.now(timezone.utc):%Y-%m-%d}", "load_average": round(os.getloadavg()[1], 1)}
    return results | {"cells": sorted([*kept, *(cell | about for cell in results["cells"])], key=place)}


def place(cell: dict[str, Any]) -> tuple[str, int, int]:
    """What identifies a cell."""
    return cell["backend"], cell["batch_size"], cell["length"]


def operators_ms(model: PreTrainedModel, path: Path) -> dict[str, float]:
    """Milliseconds of each kind of operator on one core in one pass of batch 1 × 128: sums of the nodes' medians."""
    session = onnx_session(path, num_threads=1, profile=path.with_suffix(""))
    for _ in range(PROFILED_PASSES):
        run_once(session, model)
    events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    durations: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            durations[event["args"]["op_name"], event["name"]].append(event["dur"] / 1000)
    sums: Counter[str] = Counter()
    for (operator, _), values in durations.items():
        sums[operator] += statistics.median(values)
    return {operator: round(ms, 4) for operator, ms in sums.most_common()}


def one_core_figures(models: dict[str, PreTrainedModel], graphs: dict[str, Path]) -> dict[str, Any]:
    """Processor time of single-threaded passes of batch 1 × 128, in turns: what others run meanwhile hardly counts."""
    sessions = {name: onnx_session(path, num_threads=1) for name, path in graphs.items()}
    durations_ms: dict[str, list[float]] = {name: [] for name in models}
    for name in [*models] * (PROFILED_PASSES + 1):
        start = time.thread_time()
        run_once(sessions[name], models[name])
        durations_ms[name].append(1000 * (time.thread_time() - start))
    counted = {name: durations[1:] for name, durations in durations_ms.items()}
    return {
        "processor_time": {name: asdict(Latency.from_durations(ms)) for name, ms in counted.items()},
        "speed_up": {name: asdict(ratio) for name, ratio in speed_ups(counted, "bert-base").items()},
    }


def run_once(session: Any, model: PreTrainedModel) -> None:
    """One pass of batch 1 × 128."""
    inputs = model_inputs(model.config, *PROFILED)
    names = [entry.name for entry in session.get_inputs()]
    session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})


def planner_figures(conditions: Conditions) -> dict[str, Any]:
    """What the latency table predicts for the presets, and what they take when they are run."""
    table = latency_table(BertConfig(), conditions)
    figures: dict[str, Any] = {"bert-base": {"predicted_ms": table.latency_ms(teacher_plan(BertConfig()))}}
    for name, plan in PRESETS.items():
        measured = measure_plan(plan, BertConfig(), conditions)
        figures[name] = {"predicted_ms": table.latency_ms(plan), "measured": measured}
    return {"conditions": str(conditions), "models": figures}


if __name__ == "__main__":
    main()
