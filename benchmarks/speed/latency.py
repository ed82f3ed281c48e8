"""Record how fast HomoBERT-tiny runs beside BERT-base on this machine, a quiet one: docs/results/latency.json.

    python -m benchmarks.speed.latency

Both models have random weights, which don't matter for speed, and are written by the exporter and loaded from its
folders.
"""

import json
import logging
import os
import tempfile
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from homodistil_hf import PRESETS, export_student
from homodistil_hf.models.loading import load_encoder
from homodistil_hf.models.onnx_graphs import export_onnx, onnx_session
from homodistil_hf.plans.latency import (
    FirstOutput,
    LatencyGrid,
    compare_latencies,
    figures,
    format_latencies,
    model_inputs,
)

RESULTS = Path("docs/results/latency.json")
STUDENT = "homobert-tiny"
LENGTHS = (16, 128, 512)
PROFILED = (1, 128)
PROFILED_PASSES = 20


def main() -> None:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as folder:
        models = exported_models(Path(folder))
        results = compare_latencies(models, LatencyGrid(lengths=LENGTHS), say=lambda line: print(line, flush=True))
        about = {"date": f"{datetime.now(timezone.utc):%Y-%m-%d}", "load_average": round(os.getloadavg()[1], 1)}
        results["cells"] = [cell | about for cell in results["cells"]]
        results["one_core"] = one_core_of(models)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(format_latencies(results))
    one_core = results["one_core"]["speed_up"][STUDENT]
    print(f"ONNX Runtime, batch 1, length 128, processor time of one core: {one_core['ratio']:.2f}×")


def exported_models(folder: Path) -> dict[str, PreTrainedModel]:
    """Export both models and load what was written."""
    torch.manual_seed(0)
    plan = PRESETS[STUDENT]
    student = BertConfig(
        hidden_size=plan.hidden_size,
        num_hidden_layers=len(plan.layers),
        num_attention_heads=plan.layers[0].num_attention_heads,
        intermediate_size=plan.layers[0].intermediate_size,
    )
    configs = {"bert-base": BertConfig(), STUDENT: student}
    for name, config in configs.items():
        export_student(BertForMaskedLM(config), folder / name)
    return {name: load_encoder(str(folder / name)) for name in configs}


def one_core_of(models: Mapping[str, PreTrainedModel]) -> dict[str, Any]:
    """Write the graph of each encoder; returns their [`one_core_figures`]."""
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        graphs = {name: Path(folder) / f"{number}.onnx" for number, name in enumerate(models)}
        for name, model in models.items():
            export_onnx(FirstOutput(model.base_model), model_inputs(model.config, *PROFILED), graphs[name])
        return one_core_figures(models, graphs)


def one_core_figures(models: Mapping[str, PreTrainedModel], graphs: Mapping[str, Path]) -> dict[str, Any]:
    """Processor time of interleaved single-threaded passes of batch 1 × 128; other work hardly counts."""
    sessions = {name: onnx_session(path, num_threads=1) for name, path in graphs.items()}
    durations_ms: dict[str, list[float]] = {name: [] for name in models}
    for name in [*models] * (PROFILED_PASSES + 1):
        start = time.thread_time()
        run_once(sessions[name], models[name])
        durations_ms[name].append(1000 * (time.thread_time() - start))
    counted = {name: durations[1:] for name, durations in durations_ms.items()}
    found = figures(counted)
    return {"processor_time": found["latency"], "speed_up": found["speed_up"]}


def run_once(session: Any, model: PreTrainedModel) -> None:
    """One pass of batch 1 × 128."""
    inputs = model_inputs(model.config, *PROFILED)
    names = [entry.name for entry in session.get_inputs()]
    session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})


if __name__ == "__main__":
    main()
