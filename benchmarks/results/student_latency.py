"""How fast HomoDistil's students of each size are beside their teacher: docs/results/student_latency.json.

    python -m benchmarks.results.student_latency

Models of their shapes with random weights, which don't matter for speed, in ONNX Runtime: processor time of one core,
which other work on the machine hardly changes.
"""

import json
import tempfile
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM

from benchmarks.results.students import SIZES, Results, shape_of
from benchmarks.results.verdicts import REFERENCE
from benchmarks.speed.latency import PROFILED, one_core_figures
from homodistil_hf.files.folders import write_text
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.plans.latency.backends import FirstOutput, model_inputs
from homodistil_hf.plans.latency.onnx_graph import export_onnx

TEACHER = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536)


def configs(results: Results) -> dict[str, BertConfig]:
    """`teacher`, and the shapes that HomoDistil's students have, of those that were run."""
    found = {"teacher": TEACHER}
    for sweep in SIZES:
        for record in results.records[sweep]:
            widths = {name: value for name, value in record.get("plan", {}).items() if name != "head_dim"}
            if record["arm"] == REFERENCE:
                found[shape_of(record)] = BertConfig(num_hidden_layers=TEACHER.num_hidden_layers, **widths)
    return found


def main() -> None:
    results = Results.read(Path("docs/results"), Path("examples/sweeps"))
    torch.manual_seed(0)
    models = {name: BertForMaskedLM(config).eval() for name, config in configs(results).items()}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        graphs = {name: Path(folder) / f"{name}.onnx" for name in models}
        for name, model in models.items():
            export_onnx(FirstOutput(model.base_model), model_inputs(model.config, *PROFILED), graphs[name])
        found = one_core_figures(models, graphs) | {"machine": machine_facts()}
    write_text(results.folder / "student_latency.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
