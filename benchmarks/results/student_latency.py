"""How fast students of the sweep of sizes are beside their teacher: docs/results/student_latency.json.

    python -m benchmarks.results.student_latency

Models of their shapes with random weights, which don't matter for speed, in ONNX Runtime: processor time of one core,
which other work on the machine hardly changes. A compact student runs as it is, without padding.
"""

import json
import tempfile
from pathlib import Path

import torch

from benchmarks.results.students import DEFAULTS, Results, plan_of, shape_of
from benchmarks.speed.latency import PROFILED, one_core_figures
from homodistil_hf.experiments.sweep.folder import trained
from homodistil_hf.files.folders import write_text
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.models.architectures.modeling_homobert import HomoBertConfig, HomoBertForMaskedLM
from homodistil_hf.plans.latency.timing import FirstOutput, export_onnx, model_inputs

TEACHER = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
NUM_LAYERS = 6


def configs(results: Results) -> dict[str, HomoBertConfig]:
    """`teacher`, and the shapes that students have, of those that were run."""
    plans = {shape_of(record): plan_of(record) for record in trained(results.records[DEFAULTS])}
    return {
        name: HomoBertConfig(num_hidden_layers=NUM_LAYERS, **plan)
        for name, plan in {"teacher": TEACHER, **plans}.items()
    }


def main() -> None:
    results = Results.read(Path("docs/results"), Path("examples/sweeps"))
    torch.manual_seed(0)
    models = {name: HomoBertForMaskedLM(config).eval() for name, config in configs(results).items()}
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        graphs = {name: Path(folder) / f"{name}.onnx" for name in models}
        for name, model in models.items():
            export_onnx(FirstOutput(model.base_model), model_inputs(model.config, *PROFILED), graphs[name])
        found = one_core_figures(models, graphs) | {"machine": machine_facts()}
    write_text(results.folder / "student_latency.json", json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
