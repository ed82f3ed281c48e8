"""DeBERTa-v2 and v3 with widths of their own in every layer; travels inside compact exports as remote code."""

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from transformers import DebertaV2Config
from transformers.models.deberta_v2.modeling_deberta_v2 import (
    DebertaV2ForMaskedLM,
    DebertaV2ForQuestionAnswering,
    DebertaV2ForSequenceClassification,
    DebertaV2ForTokenClassification,
    DebertaV2Model,
)

from .modeling_layerwise import LayerwiseConfig, LayerwiseMaskedLM, LayerwiseModel


class HomoDebertaV2Config(LayerwiseConfig, DebertaV2Config):
    """Configuration of a DeBERTa-v2 whose layers may differ in width; see [`LayerwiseConfig`]."""

    model_type = "homodeberta-v2"
    like_hidden_size: ClassVar[tuple[str, ...]] = ("pooler_hidden_size",)
    like_head_dim: ClassVar[tuple[str, ...]] = ("attention_head_size",)


class DebertaV2Layers(LayerwiseModel):
    """DeBERTa's linear layers, and the scale of its scores."""

    config_class = HomoDebertaV2Config
    into_attention: ClassVar[Mapping[str, int]] = dict.fromkeys(
        (f"attention.self.{name}_proj" for name in ("query", "key", "value", "pos_key", "pos_query")), 1
    )
    queries = ("attention.self.query_proj", "attention.self.pos_query_proj")
    scales_queries = True

    def query_factor(self, head_dim: int, softmax_head_dim: int) -> float:
        """Return [`LayerwiseModel.query_factor`], of roots that are rounded to float32 as in the stock class."""
        # the stock class divides by the root of the head size times the number of terms in a score
        terms = 1 + sum(kind in (self.config.pos_att_type or ()) for kind in ("c2p", "p2c"))
        # dtype and device are explicit: `from_pretrained` changes both defaults while it builds a model.
        sizes = torch.tensor([head_dim * terms, softmax_head_dim * terms], dtype=torch.float32, device="cpu")
        present, wanted = sizes.sqrt().tolist()
        return present / wanted


class HomoDebertaV2Model(DebertaV2Layers, DebertaV2Model):
    """The encoder."""


class Decoder(NamedTuple):
    """Weight and bias of a decoder that is no module."""

    weight: torch.Tensor
    bias: torch.Tensor


class HomoDebertaV2ForMaskedLM(DebertaV2Layers, LayerwiseMaskedLM, DebertaV2ForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    def __init__(self, config: Any):
        self.unused_if_untied = "cls.predictions.bias" if config.legacy else None  # type: ignore[misc]
        super().__init__(config)

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        if self.legacy:
            return self.cls.predictions.transform(states)
        head = self.lm_predictions.lm_head
        return head.LayerNorm(head.transform_act_fn(head.dense(states)))

    @property
    def decoder_layer(self) -> Any:
        """Return an object with the decoder's `weight` and `bias`."""
        if self.legacy:
            return self.get_output_embeddings()
        return Decoder(self.get_input_embeddings().weight, self.lm_predictions.lm_head.bias)


class HomoDebertaV2ForSequenceClassification(DebertaV2Layers, DebertaV2ForSequenceClassification):
    """Classification or regression of whole sequences."""


class HomoDebertaV2ForTokenClassification(DebertaV2Layers, DebertaV2ForTokenClassification):
    """Classification of every token."""


class HomoDebertaV2ForQuestionAnswering(DebertaV2Layers, DebertaV2ForQuestionAnswering):
    """Start and end of an answer."""
