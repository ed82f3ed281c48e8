"""Size and speed of embedding models side by side, and what int8 costs: torch, ONNX Runtime, ONNX Runtime with int8.

    python -m benchmarks.studies.embedding_speed --data DATA --models teacher=DIR half=DIR quarter=DIR

Each DIR is a folder of sentence-transformers, DATA has `glue/stsb`: its development pairs are what is encoded, and
what quality is measured on. Writes docs/results/embedding_speed.json and its table in docs/embeddings.md, in minutes
on a quiet machine.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.marked_pages import fill_in
from homodistil_hf.files.provenance import machine_facts
from homodistil_hf.files.strict_json import write_json
from homodistil_hf.methods.embedding.model import EmbeddingModel, load_embedding_model
from homodistil_hf.methods.embedding.scores import pair_score
from homodistil_hf.methods.embedding.tasks import PairTask, load_tasks
from homodistil_hf.plans.latency.backends import check_equal
from homodistil_hf.plans.latency.onnx_graph import export_onnx, onnx_runner
from homodistil_hf.plans.latency.timing import figures, time_in_turns
from homodistil_hf.tables import markdown_table

RECORD, PAGE = Path("docs/results/embedding_speed.json"), Path("docs/embeddings.md")
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
        """The whole model's."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.model.vectors(states, attention_mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=DIR", help="in the order of the table")
    parser.add_argument("--num_rounds", type=int, default=15, help="timed turns of each")
    options = parser.parse_args()
    folders = dict(entry.split("=", 1) for entry in options.models)
    with tempfile.TemporaryDirectory() as scratch, torch.inference_mode():
        found = measured(folders, options, Path(scratch))
    write_json(RECORD, {"machine": machine_facts(), "num_threads": torch.get_num_threads(), "models": found})
    fill_in(PAGE, {"speed": speed_table(found)})


def measured(folders: Mapping[str, str], options: argparse.Namespace, scratch: Path) -> dict[str, dict[str, Any]]:
    """Model → form → STS-B's Spearman, bytes, and sentences per second at each batch size."""
    tasks = load_tasks(options.data / "glue", max_queries=1000)
    (task,) = (one for one in tasks if isinstance(one, PairTask) and one.name == "stsb")
    models = {name: load_embedding_model(folder) for name, folder in folders.items()}
    found: dict[str, dict[str, Any]] = {}
    passes: dict[int, dict[str, Callable[[], object]]] = {size: {} for size in BATCH_SIZES}
    for name, model in models.items():
        model.encoder.eval()
        runners, sizes = forms(model, tuple(_inputs(model, task.first[:2]).values()), scratch / name)
        found[name] = {}
        for form, run in runners.items():
            first, second = (encoded(model, run, texts) for texts in (task.first, task.second))
            score = pair_score(task.metric, first, second, task.labels)
            found[name][form] = {"stsb": score, "size_bytes": sizes[form]}
            print(f"{name}, {form}: STS-B {score:.4f}, {sizes[form] / 1e6:.1f} MB", flush=True)
            for size in BATCH_SIZES:
                passes[size][f"{name}, {form}"] = partial(run, *_inputs(model, task.first[:size]).values())
    for size, timed in passes.items():
        latency = figures(time_in_turns(timed, num_rounds=options.num_rounds))["latency"]
        for key, told in latency.items():
            name, form = key.split(", ", 1)
            found[name][form][f"sentences_per_s, {size} at once"] = 1000 * size / told["median_ms"]
    return found


def forms(
    model: EmbeddingModel, inputs: tuple[torch.Tensor, ...], folder: Path
) -> tuple[dict[str, Runner], dict[str, int]]:
    """Ways to run a model, each of its float forms with equal outputs, and what each takes on disk."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder.mkdir(parents=True)
    module, graph, int8 = Vectors(model).eval(), folder / "model.onnx", folder / "int8.onnx"
    export_onnx(module, inputs, graph)
    bare = onnx.load(graph)
    bare.graph.ClearField("value_info")  # shapes of before torch transposed weights, which stop the quantization
    quantize_dynamic(bare, int8, weight_type=QuantType.QInt8)
    runners = dict(zip(FORMS, (module, onnx_runner(graph), onnx_runner(int8)), strict=True))
    check_equal(module, runners[FORMS[1]], inputs, FORMS[1])
    weights = Path(model.name)
    size = sum(file.stat().st_size for file in weights.rglob("*.safetensors"))
    return runners, dict(zip(FORMS, (size, graph.stat().st_size, int8.stat().st_size), strict=True))


def encoded(model: EmbeddingModel, run: Runner, texts: list[str], batch_size: int = 32) -> torch.Tensor:
    """The vectors of texts, `(len(texts), D)`, in batches as they come."""
    batches = (texts[start : start + batch_size] for start in range(0, len(texts), batch_size))
    return torch.cat([run(*_inputs(model, batch).values()) for batch in batches])


def _inputs(model: EmbeddingModel, texts: list[str]) -> dict[str, torch.Tensor]:
    tokens = model.tokenize(texts)
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def speed_table(models: Mapping[str, Mapping[str, Any]]) -> str:
    """A row a model and form."""
    cells = [
        [name, form, f"{100 * told['stsb']:.1f}", f"{told['size_bytes'] / 1e6:.1f}"]
        + [f"{told[f'sentences_per_s, {size} at once']:,.0f}" for size in BATCH_SIZES]
        for name, found in models.items()
        for form, told in found.items()
        if form in FORMS
    ]
    header = ["model", "run by", "STS-B", "MB", *(f"sentences/s, {size} at once" for size in BATCH_SIZES)]
    return "\n".join(markdown_table(header, cells))


if __name__ == "__main__":
    main()
