"""Embedding models in other runtimes: the linear map stands in the graph, on every token; and the time of a query.

Runtimes pool the states of tokens and normalise the result; they skip a layer behind the pooling, or refuse it. A
pooling that is linear in the tokens gives the same vector when the map comes before it: `W Σ a_t h_t + b =
Σ a_t (W h_t + b)` where the shares a_t add up to 1.

Shapes: B texts, T tokens, H hidden channels, D channels of a vector.
"""

import itertools
import logging
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from ..deploy.deployable import Deployable, Fidelity, NamedOutputs, Outputs, differences
from ..deploy.folder import Deployment
from ..deploy.runtimes import write_graph
from ..files.messages import first_line
from ..models.onnx_graphs import onnx_session
from ..plans.latency import Pass, missing_reason, time_in_turns
from .card import embedding_card
from .metrics import agreement
from .model import EmbeddingModel, folded, load_embedding_model, pooled

logger = logging.getLogger(__name__)
ONNX_RUNTIME, TORCH = "ONNX Runtime, one core", "torch"
_NUM_ROUNDS = 14
Encode = Callable[[list[str]], torch.Tensor]

STATES, VECTORS = "last_hidden_state", "sentence_embedding"
_POOLED = "pooled states"
_JAVASCRIPT = {"mean": "mean", "cls": "cls", "lasttoken": "last_token"}


class EmbeddingGraph(NamedOutputs):
    """States of tokens in the vectors' space, and vectors of texts; or vectors alone."""

    def __init__(self, model: EmbeddingModel, *, has_states: bool):
        super().__init__(model.encoder, [STATES])
        self.whole, self.has_states = model, has_states
        self.layers = nn.ModuleList(layer.linear for layer in model.dense)  # so that a graph finds their weights

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Token ids `(B, T)` → states `(B, T, D)`, unless left out, and vectors `(B, D)`."""
        (states_BTH,) = super().forward(input_ids, attention_mask, token_type_ids)
        if not self.has_states:
            return (self.whole.vectors(states_BTH, attention_mask),)
        # the map on every token, and the same pooling behind it, which is linear here: see `map_problem`
        for layer in self.whole.dense:
            states_BTH = layer(states_BTH)
        return states_BTH, replace(self.whole, dense=()).vectors(states_BTH, attention_mask)


def map_problem(model: EmbeddingModel) -> str:
    """Why the layers behind the pooling can't stand on every token; empty if they can, or if there are none."""
    if model.settings.truncate_dim is not None:
        return f"its vectors are cut to {model.dimension} channels behind all layers"
    if not model.dense:
        return ""
    pooling = model.settings.pooling
    if activations := [layer.activation for layer in model.dense if layer.activation != "Identity"]:
        return f"a layer behind its pooling has the activation {activations[0]}"
    # a bias stays itself only where the shares of tokens add up to 1; by √n they don't
    has_bias = any(layer.linear.bias is not None for layer in model.dense)
    if pooling == "max" or (has_bias and pooling == "mean_sqrt_len_tokens"):
        return f"its pooling, {pooling}, comes before a linear map and is not linear"
    return ""


def embedding_deployable(model: str | Path | EmbeddingModel) -> Deployable:
    """Make an embedding model ready: loaded, an export, or another folder or repository of sentence-transformers.

    Raises:
        ValueError: see [`load_embedding_model`].
    """
    if not isinstance(model, EmbeddingModel):
        model = load_embedding_model(model, argument="folder")
    model = replace(model, dense=folded(model.dense))
    problem, settings = map_problem(model), model.settings
    has_states = not problem

    def read(outputs: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor]) -> list[Outputs]:
        compared = {name: tensor for name, tensor in outputs.items() if name != STATES}
        # what a runtime makes of the states: pooled, and brought to length 1
        if STATES in outputs:
            vectors_BD = pooled(outputs[STATES], inputs["attention_mask"], settings.pooling)
            compared[_POOLED] = F.normalize(vectors_BD, dim=-1) if settings.normalizes else vectors_BD
        return [{name: tensor[row] for name, tensor in compared.items()} for row in range(len(inputs["input_ids"]))]

    pooling = _JAVASCRIPT.get(settings.pooling) if has_states else None
    javascript = {"pooling": pooling, "normalize": settings.normalizes, "outputs": [_POOLED]}
    return Deployable(
        EmbeddingGraph(model, has_states=has_states).eval(),
        model.encoder.config,
        model.tokenizer,
        settings.max_seq_length,
        (STATES, VECTORS) if has_states else (VECTORS,),
        read,
        compare_vectors,
        fidelity_name="cosine",
        javascript=javascript if pooling else None,
        prepare=model.settings.prepared,
        note=f"Its graphs give `{VECTORS}` alone, no states of tokens, because {problem}." if problem else "",
    )


def compare_vectors(expected: Sequence[Outputs], found: Sequence[Outputs]) -> Fidelity:
    """Compare vectors of texts, under each name that both have; the worst counts.

    Returns:
        `fidelity`: mean cosine. `lowest_cosine`. `neighbours`: share of the three nearest other texts that are kept.
        `largest_difference` and `distance` as in [`compare_answers`].
    """
    figures = []
    for name in (name for name in expected[0] if name in found[0]):
        one, other = (torch.stack([row[name].float().flatten() for row in rows]) for rows in (expected, found))
        cosines = torch.cosine_similarity(one, other, dim=-1)
        figures.append(
            {
                "fidelity": float(cosines.mean()),
                "lowest_cosine": float(cosines.min()),
                "neighbours": agreement(other, one, most_neighbours=3)["neighbours"],
                **differences([(one, other)]),
            }
        )
    return min(figures, key=lambda row: row["fidelity"])


EMBEDDING = Deployment(embedding_deployable, embedding_card)


def query_ms(models: Mapping[str, EmbeddingModel], queries: list[str]) -> tuple[str, dict[str, float]]:
    """Time models on one query at once, in turns; looking it up isn't in the times, its tokenizer is.

    Returns:
        `(runtime, ms)`: `ONNX_RUNTIME`, or `TORCH` where the `[onnx]` extra is missing; name → median milliseconds.
    """
    if missing_reason("onnxruntime") is None:
        try:
            with tempfile.TemporaryDirectory() as folder:
                passes = {name: graph_encoder(model, Path(folder)) for name, model in models.items()}
                return ONNX_RUNTIME, _medians(passes, queries)
        except Exception as error:  # noqa: BLE001 - exporters raise errors of many kinds, and a run has ended here
            logger.warning("models can't be timed in ONNX Runtime, so torch is: %s", first_line(error))
    passes = {name: partial(model.encode, prompt_name="query") for name, model in models.items()}
    return TORCH, _medians(passes, queries)


def _medians(encoders: Mapping[str, Encode], queries: list[str]) -> dict[str, float]:
    def next_query(encode: Encode) -> Pass:
        texts = itertools.cycle(queries)
        return lambda: encode([next(texts)])

    passes = {name: next_query(encode) for name, encode in encoders.items()}
    taken = time_in_turns(passes, num_rounds=_NUM_ROUNDS, num_warmup=1, rest_s=0.0)
    return {name: round(statistics.median(durations), 3) for name, durations in taken.items()}


def graph_encoder(model: EmbeddingModel, folder: Path) -> Encode:
    """Write a model's graph below a folder, and return queries → their vectors by ONNX Runtime on one core."""
    ready = embedding_deployable(model)
    path = Path(tempfile.mkdtemp(dir=folder), "model.onnx")
    write_graph(ready, path)
    session = onnx_session(path, num_threads=1)

    def encode(queries: list[str]) -> torch.Tensor:
        inputs = model.tokenize(queries, "query")
        *_, vectors = session.run(None, {name: inputs[name].numpy() for name in ready.input_names})
        return torch.from_numpy(vectors)

    return encode
