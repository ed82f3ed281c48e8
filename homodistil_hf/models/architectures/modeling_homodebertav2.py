"""DeBERTa-v2 and v3 with widths of their own in every layer; travels inside compact exports as remote code."""

from typing import Any, ClassVar, NamedTuple

import torch

from .modeling_layerwise import LayerwiseConfig, LayerwiseMaskedLM, LayerwiseModel, student_classes


class DebertaV2Widths(LayerwiseConfig):
    """DeBERTa's further names of widths."""

    like_hidden_size: ClassVar[tuple[str, ...]] = ("pooler_hidden_size",)
    like_head_dim: ClassVar[tuple[str, ...]] = ("attention_head_size",)


class DebertaV2Layers(LayerwiseModel):
    """DeBERTa's linear layers, and the scale of its scores."""

    into_attention = tuple(f"attention.self.{name}_proj" for name in ("query", "key", "value", "pos_key", "pos_query"))
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


class Decoder(NamedTuple):
    """Weight and bias of a decoder that is no module."""

    weight: torch.Tensor
    bias: torch.Tensor


class DebertaV2MaskedLM(LayerwiseMaskedLM):
    """Masked-LM model with one of two heads, which the configuration chooses."""

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


globals().update(student_classes(__name__, "DebertaV2", DebertaV2Widths, DebertaV2Layers, DebertaV2MaskedLM))
