"""Costs of a model of given widths by formula: parameters, multiply-accumulates, bytes. plans/latency.py has times."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .architectures import HEADS, architecture_of
from .architectures.architecture import (
    ATTENDED,
    EMBEDDING,
    GATE,
    HEAD,
    HEAD_CHANNEL,
    HIDDEN,
    KEY,
    NEURON,
    QUERY,
    QUERY_KEY_VALUE,
    VALUE,
    Shapes,
)
from .widths import LayerWidths, WidthPlan, of_architecture, widths_of

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

COSTS = ("num_parameters", "num_encoder_parameters", "encoder_macs", "size_bytes")
MODEL_COSTS = ("num_parameters", "encoder_macs", "size_bytes")
"""Those that tables of models show."""


def count_parameters(plan: WidthPlan, config: PreTrainedConfig, *, head: str | None = None) -> int:
    """Count the parameters of an encoder with the widths of `plan`, exactly and without building it; tied ones once.

    Args:
        plan: widths of the model; an uneven plan gives the compact form, `plan.padded()` the stock one.
        config: the rest of the shape: `vocab_size`, `max_position_embeddings`, `type_vocab_size`,
            `tie_word_embeddings`, and `num_labels` of a task head.
        head: `None` for embeddings and encoder, without pooler; or `"masked_lm"`, `"sequence_classification"` (its
            pooler included), `"token_classification"`, `"question_answering"`.

    Example:
    ```python
    >>> from transformers import BertConfig
    >>> from homodistil_hf.models.widths import widths_of
    >>> count_parameters(widths_of(BertConfig()), BertConfig(), head="masked_lm")
    109514298

    ```
    """
    architecture = architecture_of(config)
    found = next(known for known in architecture.heads if known.kind.name == head) if head else None
    absent = architecture.absent(config)
    tables = [architecture.embeddings, *([found.shapes] if found else [])]
    if found and not config.tie_word_embeddings:
        tables.append(found.untied)

    def count(shapes: Shapes, widths: LayerWidths) -> int:
        return sum(
            math.prod(_shape(dims, plan, widths, config)) for name, dims in shapes.items() if name not in absent
        )

    # layers that are alike are counted once and multiplied
    layers = collections.Counter(plan.layers).items()
    # the table lists these for every layer, and the first one lacks them
    missing = count(architecture.not_in_first_layer, plan.layers[0])
    return (
        sum(count(shapes, plan.widest) for shapes in tables)
        - missing
        + sum(number * count(architecture.layer, widths) for widths, number in layers)
    )


def check_shapes(model: PreTrainedModel, argument: str = "teacher") -> None:
    """Refuse a model whose parameters differ from its architecture's table: units would be cut in the wrong place.

    Raises:
        ValueError: a parameter of another shape, caused by a setting that the table doesn't cover.
    """
    config, plan = model.config, widths_of(model.config)
    shapes = architecture_of(config).shapes(model)
    for name, parameter in model.named_parameters():
        # a parameter that the table lacks has no shape to compare: encoder_groups refuses it
        dims, layer = shapes.get(name, ((), None))
        expected = _shape(dims, plan, plan.widest if layer is None else plan.layers[layer], config)
        if dims and expected != tuple(parameter.shape):
            raise ValueError(
                f"{argument} parameter {name} has the shape {tuple(parameter.shape)}, where {expected} is supported: "
                f"a setting of its {config.model_type} config is not known here; choose a model with the usual one"
            )


def _shape(dims: tuple[str, ...], plan: WidthPlan, widths: LayerWidths, config: PreTrainedConfig) -> tuple[int, ...]:
    """Return the shape of a parameter by the meanings of its dimensions' indices."""
    parts = {what: parts_of(what, plan, widths) for what in dims}
    return tuple(
        math.prod(parts[what]) if parts[what] else architecture_of(config).size_of(config, what) for what in dims
    )


def parts_of(what: str, plan: WidthPlan, widths: LayerWidths) -> tuple[int, ...]:
    """Return what a dimension consists of, by the meaning of its indices: blocks, heads or neurons, channels of heads.

    `widths` are those of the layer; empty for a dimension that is no width.
    """
    num_heads, head_dim, num_neurons = dataclasses.astuple(widths)
    shared = num_heads // plan.traits.queries_per_key
    known = {
        HIDDEN: (plan.hidden_size,),
        EMBEDDING: (plan.embedding_size or plan.hidden_size,),
        HEAD: (num_heads,),
        HEAD_CHANNEL: (head_dim,),
        **dict.fromkeys((QUERY, ATTENDED), (1, num_heads, head_dim)),
        **dict.fromkeys((KEY, VALUE), (1, shared, head_dim)),
        QUERY_KEY_VALUE: (3, num_heads, head_dim),
        NEURON: (1, num_neurons),
        GATE: (2, num_neurons),
    }
    return known.get(what, ())


def encoder_macs(plan: WidthPlan, sequence_length: int = 128) -> int:
    r"""Count the multiply-accumulates of one token that attends to `sequence_length` through all encoder layers.

    Linear layers and the two attention products are included; embeddings, heads, biases, LayerNorm and softmax are
    not, nor what DeBERTa computes of distances. With hidden size \\(d\\), attention size \\(a_l\\), FFN size
    \\(f_l\\) and \\(n\\) tokens: \\(\sum_l 4 d a_l + 2 d f_l + 2 n a_l\\). Gated FFNs have \\(3 d f_l\\), and
    attention whose keys and values are shared by \\(g\\) queries \\((2 + 2/g) d a_l\\).

    Example:
    ```python
    >>> encoder_macs(WidthPlan.uniform(768, 12, LayerWidths(12, 64, 3072)))
    87293952

    ```
    """
    return sum(
        2 * plan.hidden_size * (layer.attention_size + layer.attention_size // plan.traits.queries_per_key)
        + plan.traits.ffn_matrices * plan.hidden_size * layer.intermediate_size
        + 2 * sequence_length * layer.attention_size
        for layer in plan.layers
    )


def model_facts(model: PreTrainedModel) -> dict[str, Any]:
    """Count the costs of a model, of a stock class or a student.

    Returns:
        `architecture`, `plan`, `num_hidden_layers` and the four `COSTS`: parameters with tied ones once, those of
        embeddings and encoder alone, multiply-accumulates a token at 128 tokens, bytes of all parameters.
    """
    plan = widths_of(model.config)
    if getattr(model.config, "packed", False):  # bits are buffers: as many parameters as the float model, fewer bytes
        size_bytes = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
        return planned_facts(model.config, type(model).__name__) | {"size_bytes": size_bytes}
    parameters = list(model.parameters())
    encoder = [parameter for name, parameter in model.base_model.named_parameters() if not name.startswith("pooler.")]
    num_parameters, num_of_encoder = (sum(one.numel() for one in some) for some in (parameters, encoder))
    size_bytes = sum(parameter.numel() * parameter.element_size() for parameter in parameters)
    return _facts(type(model).__name__, plan, (num_parameters, num_of_encoder), size_bytes=size_bytes)


def planned_facts(config: PreTrainedConfig, class_name: str, plan: WidthPlan | None = None) -> dict[str, Any]:
    """Compute the result of [`model_facts`] for a float32 model that doesn't exist yet.

    `config` gives the shape, and the widths where there is no plan. No pooler of an encoder without a head is counted.
    """
    own = widths_of(config)
    plan = own if plan is None else of_architecture(plan, own)
    head = HEADS.get(class_name)
    num_parameters = count_parameters(plan, config, head=head.kind.name if head else None)
    counts = num_parameters, count_parameters(plan, config)
    return _facts(class_name, plan, counts, size_bytes=4 * num_parameters)


def _facts(class_name: str, plan: WidthPlan, counts: tuple[int, int], *, size_bytes: int) -> dict[str, Any]:
    """The section; `counts` are the parameters of the model and of its encoder alone."""
    return {
        "architecture": class_name,
        "plan": plan.to_dict(),
        "num_hidden_layers": len(plan.layers),
        "num_parameters": counts[0],
        "num_encoder_parameters": counts[1],
        "encoder_macs": encoder_macs(plan),
        "size_bytes": size_bytes,
    }


def cost_fractions(student: Mapping[str, Any], teacher: Mapping[str, Any] | None) -> dict[str, float]:
    """Return each cost of the student as a fraction of the teacher's, to 4 digits; empty without a teacher."""
    return {} if teacher is None else {name: round(student[name] / teacher[name], 4) for name in COSTS}
