"""Size and speed of embedding models side by side, and the cost of int8: torch, ONNX Runtime, ONNX Runtime with int8.

    python -m benchmarks.studies.embedding_speed --data DATA --models teacher=DIR half=DIR quarter=DIR

Each DIR is a folder of sentence-transformers. DATA has `glue/stsb`: its development pairs are encoded, and quality is
measured on them. Takes minutes on a quiet machine.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.studies.study import Study
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.methods.embedding.evaluate import PairTask, load_tasks, pair_score
from homodistil_hf.methods.embedding.model import EmbeddingModel, load_embedding_model
from homodistil_hf.plans.latency.timing import check_equal, export_onnx, figures, onnx_runner, time_in_turns
from homodistil_hf.tables import markdown_table

FORMS = ("torch", "onnxruntime", "onnxruntime, int8")
BATCH_SIZES = (1, 32)
Runner = Callable[..., torch.Tensor]


class Vectors(nn.Module):
    """Tokens and mask, `(B, T)` int64 each → vectors, `(B, D)`."""

    def __init__(self, model: EmbeddingModel):
        super().__init__()
        self.model, self.encoder = model, model.encoder
        self.dense = nn.ModuleList(layer.linear for layer in model.dense)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Run the whole model."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.model.vectors(states, attention_mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=DIR", help="in the order of the table")
    parser.add_argument("--num_rounds", type=int, default=15, help="timed rounds of each")
    options = parser.parse_args()
    models = {name: load_embedding_model(folder) for name, folder in (entry.split("=", 1) for entry in options.models)}
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        found = measured(models, options, Path(scratch))
    STUDY.write({"machine": machine_facts(), "num_threads": torch.get_num_threads(), "models": found})
    STUDY.show()


def measured(
    models: Mapping[str, EmbeddingModel], options: argparse.Namespace, scratch: Path
) -> dict[str, dict[str, Any]]:
    """Model → form → STS-B's Spearman, bytes, and sentences per second at each batch size."""
    tasks = load_tasks(options.data / "glue", max_queries=1000)
    (task,) = (one for one in tasks if isinstance(one, PairTask) and one.name == "stsb")
    found: dict[str, dict[str, Any]] = {}
    passes: dict[int, dict[str, Callable[[], object]]] = {size: {} for size in BATCH_SIZES}
    for name, model in models.items():
        model.encoder.eval()
        found[name] = {}
        for form, (run, size_bytes) in forms(model, _inputs(model, task.first[:2]), scratch / name).items():
            first, second = (encoded(model, run, texts) for texts in (task.first, task.second))
            score = pair_score(task.metric, first, second, task.labels)
            found[name][form] = {"stsb": score, "size_bytes": size_bytes}
            print(f"{name}, {form}: STS-B {score:.4f}, {size_bytes / 1e6:.1f} MB", flush=True)
            for size in BATCH_SIZES:
                passes[size][f"{name}, {form}"] = partial(run, *_inputs(model, task.first[:size]))
    for size, timed in passes.items():
        for key, times in figures(time_in_turns(timed, num_rounds=options.num_rounds))["latency"].items():
            name, form = key.split(", ", 1)
            found[name][form][f"sentences_per_s, {size} at once"] = 1000 * size / times["median_ms"]
    return found


def forms(model: EmbeddingModel, inputs: tuple[torch.Tensor, ...], folder: Path) -> dict[str, tuple[Runner, int]]:
    """Ways to run a model and their bytes on disk; the two float forms have equal outputs."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder.mkdir(parents=True)
    module, graph, int8 = Vectors(model).eval(), folder / "model.onnx", folder / "int8.onnx"
    export_onnx(module, inputs, graph)
    bare = onnx.load(graph)
    bare.graph.ClearField("value_info")  # shapes of before torch transposed weights, which stop the quantization
    quantize_dynamic(bare, int8, weight_type=QuantType.QInt8)
    runners = (module, onnx_runner(graph), onnx_runner(int8))
    check_equal(module, runners[1], inputs, FORMS[1])
    weights = sum(file.stat().st_size for file in Path(model.name).rglob("*.safetensors"))
    sizes = (weights, graph.stat().st_size, int8.stat().st_size)
    return dict(zip(FORMS, zip(runners, sizes, strict=True), strict=True))


def encoded(model: EmbeddingModel, run: Runner, texts: list[str], batch_size: int = 32) -> torch.Tensor:
    """The vectors of texts, `(len(texts), D)`, in batches as they come."""
    batches = (texts[start : start + batch_size] for start in range(0, len(texts), batch_size))
    return torch.cat([run(*_inputs(model, batch)) for batch in batches])


def _inputs(model: EmbeddingModel, texts: list[str]) -> tuple[torch.Tensor, ...]:
    tokens = model.tokenize(texts)
    return tokens["input_ids"], tokens["attention_mask"]


def speed_table(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row a model and form."""
    cells = [
        [name, form, f"{100 * one['stsb']:.1f}", f"{one['size_bytes'] / 1e6:.1f}"]
        + [f"{one[f'sentences_per_s, {size} at once']:,.0f}" for size in BATCH_SIZES]
        for name, found in models.items()
        for form, one in found.items()
        if form in FORMS
    ]
    header = ["model", "run by", "STS-B", "MB", *(f"sentences/s, {size} at once" for size in BATCH_SIZES)]
    return markdown_table(header, cells)


STUDY = Study(
    Path("docs/results/embedding_speed.json"),
    Path("docs/embeddings.md"),
    lambda record: {"speed": speed_table(record["models"])},
)


if __name__ == "__main__":
    main()
