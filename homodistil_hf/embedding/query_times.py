"""How long a query takes to encode: in ONNX Runtime on one core where it is installed, else in torch."""

import copy
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ..deploy.graphs import write_graph
from ..files.messages import first_line
from ..models.onnx_graphs import onnx_session
from ..plans.latency.timing import missing_reason
from .deployable import deployable_of
from .model import EmbeddingModel

logger = logging.getLogger(__name__)

ONNX_RUNTIME, TORCH = "ONNX Runtime, one core", "torch"
_NUM_TIMED = 40
Encode = Callable[[str], object]


def query_ms(models: Mapping[str, EmbeddingModel], queries: list[str]) -> tuple[str, dict[str, float]]:
    """Time models on one query at once, in turns; looking it up isn't in the times, its tokenizer is.

    Args:
        models: name → model.
        queries: the first ones are timed.

    Returns:
        `(runtime, ms)`: `ONNX_RUNTIME`, or `TORCH` where the `[onnx]` extra is missing; name → median milliseconds.
    """
    if missing_reason("onnxruntime") is None:
        try:
            with tempfile.TemporaryDirectory() as folder:
                passes = {name: _by_graph(model, Path(folder)) for name, model in models.items()}
                return ONNX_RUNTIME, _medians(passes, queries)
        except Exception as error:  # noqa: BLE001 - exporters raise errors of many kinds, and a run has ended here
            logger.warning("models can't be timed in ONNX Runtime, so torch is: %s", first_line(error))
    return TORCH, _medians({name: _by_torch(model) for name, model in models.items()}, queries)


def _medians(passes: Mapping[str, Encode], queries: list[str]) -> dict[str, float]:
    durations_ms: dict[str, list[float]] = {name: [] for name in passes}
    for encode in passes.values():
        encode(queries[0])  # the first pass sets memory up
    # a slow moment of the machine hits all models alike, if they take turns
    for query in queries[:_NUM_TIMED]:
        for name, encode in passes.items():
            since = time.perf_counter()
            encode(query)
            durations_ms[name].append(1000 * (time.perf_counter() - since))
    return {name: round(statistics.median(taken), 3) for name, taken in durations_ms.items()}


def _by_torch(model: EmbeddingModel) -> Encode:
    return lambda query: model.encode([query], prompt_name="query")


def _by_graph(model: EmbeddingModel, folder: Path) -> Encode:
    encoder = model.encoder if model.encoder.device.type == "cpu" else copy.deepcopy(model.encoder).cpu()
    ready = deployable_of(replace(model, encoder=encoder))
    path = Path(tempfile.mkdtemp(dir=folder), "model.onnx")
    write_graph(ready, path)
    session = onnx_session(path, num_threads=1)

    def encode(query: str) -> object:
        inputs = model.tokenize([query], "query")
        return session.run(None, {name: inputs[name].numpy() for name in ready.input_names})

    return encode
