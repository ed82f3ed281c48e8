"""BERT with widths of its own in every layer.

The classes here are stock BERT whose layers are built from ``config.per_layer_config[i]``: number of heads, head
size and FFN size may differ from layer to layer, and heads × head size need not equal the hidden size. Forward passes
are inherited from transformers. The file imports torch and transformers only, because it travels inside compact
exports as remote code; which parameters belong together and how a student shrinks is said elsewhere.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import BertConfig
from transformers.modeling_outputs import MaskedLMOutput
from transformers.models.bert.modeling_bert import (
    BertAttention,
    BertEmbeddings,
    BertEncoder,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertIntermediate,
    BertLayer,
    BertModel,
    BertOnlyMLMHead,
    BertOutput,
    BertPooler,
    BertPreTrainedModel,
    BertSelfAttention,
    BertSelfOutput,
)


class HomoBertConfig(BertConfig):
    """Configuration of a BERT whose layers may differ in width.

    Uniform widths are plain attributes; differing ones stand in transformers' own ``per_layer_config``, with the keys
    ``num_attention_heads``, ``head_dim`` and ``intermediate_size``.

    Args:
        head_dim (`int`, *optional*):
            Channels of one head. Default: ``hidden_size // num_attention_heads``.
        softmax_head_dim (`int`, *optional*):
            Head size d that the softmax scale 1/√d is taken from. A pruned head keeps the scale it was trained with,
            so this stays the teacher's head size while ``head_dim`` shrinks. Default: each layer's ``head_dim``.
    """

    model_type = "homobert"
    _auto_class = None  # not the parent's: some process may have marked stock BERT as somebody's remote code

    head_dim: int | None = None
    softmax_head_dim: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse training checkpoints of earlier versions, which say here what was masked in them."""
        if dropped := kwargs.pop("dropped_hidden_channels", None):
            raise ValueError(
                f"config has dropped_hidden_channels={str(dropped)[:100]}: a training checkpoint of an earlier "
                "version, which kept masks in it; export it with that version, or start anew"
            )
        super().__post_init__(**kwargs)

    def validate(self) -> None:
        """Check the configuration, layer by layer where they differ: transformers 5.14 cannot check those at once."""
        if not self.is_heterogeneous:
            super().validate()
            return
        for layer in self.per_layer_config:
            layer.validate()


def layer_head_dim(layer_config: BertConfig) -> int:
    """The size of one head in one layer.

    Args:
        layer_config: `BertConfig` or one element of a `HomoBertConfig.per_layer_config`.

    Returns:
        `int`: channels a head, ≥ 1.
    """
    head_dim = getattr(layer_config, "head_dim", None)
    return head_dim or layer_config.hidden_size // layer_config.num_attention_heads


class HomoBertSelfAttention(BertSelfAttention):
    """Stock self-attention with any head count and head size."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear

    def __init__(self, config: HomoBertConfig, layer_idx: int | None = None):
        nn.Module.__init__(self)
        self.config = config
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.is_decoder = False
        self.is_causal = False
        self.layer_idx = layer_idx
        self.set_widths(config)
        for name in ("query", "key", "value"):
            setattr(self, name, nn.Linear(config.hidden_size, self.all_head_size))

    def set_widths(self, layer_config: BertConfig) -> None:
        """Read head count, head size and softmax scale from one layer's configuration.

        Args:
            layer_config: one element of `HomoBertConfig.per_layer_config`.
        """
        self.num_attention_heads = layer_config.num_attention_heads
        self.attention_head_size = layer_head_dim(layer_config)
        self.all_head_size = self.num_attention_heads * self.attention_head_size
        softmax_head_dim = getattr(layer_config, "softmax_head_dim", None)
        self.scaling = (softmax_head_dim or self.attention_head_size) ** -0.5


class HomoBertSelfOutput(BertSelfOutput):
    """Stock attention output from heads × head size to the hidden size."""

    def __init__(self, config: HomoBertConfig):
        nn.Module.__init__(self)
        self.dense = nn.Linear(config.num_attention_heads * layer_head_dim(config), config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)


class HomoBertAttention(BertAttention):
    """Stock attention block of the parts above."""

    def __init__(self, config: HomoBertConfig, layer_idx: int | None = None):
        nn.Module.__init__(self)
        self.is_cross_attention = False
        self.self = HomoBertSelfAttention(config, layer_idx=layer_idx)
        self.output = HomoBertSelfOutput(config)


class HomoBertLayer(BertLayer):
    """Stock encoder layer of its own widths."""

    def __init__(self, config: HomoBertConfig, layer_idx: int | None = None):
        nn.Module.__init__(self)
        self.chunk_size_feed_forward = config.chunk_size_feed_forward
        self.seq_len_dim = 1
        self.is_decoder = False
        self.add_cross_attention = False
        self.attention = HomoBertAttention(config, layer_idx=layer_idx)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config)


class HomoBertEncoder(BertEncoder):
    """Stock encoder whose layer i is built from ``config.per_layer_config[i]``."""

    def __init__(self, config: HomoBertConfig):
        nn.Module.__init__(self)
        self.config = config
        layers = [HomoBertLayer(layer_config(config, i), layer_idx=i) for i in range(config.num_hidden_layers)]
        self.layer = nn.ModuleList(layers)


def layer_config(config: BertConfig, layer: int) -> BertConfig:
    """One layer's view of a configuration.

    Args:
        config: a `BertConfig` or `HomoBertConfig`.
        layer: layer index, 0 ≤ layer < num_hidden_layers.

    Returns:
        `BertConfig`: with that layer's widths; the configuration itself where all layers are alike.
    """
    return config.per_layer_config[layer] if config.is_heterogeneous else config


class HomoBertPreTrainedModel(BertPreTrainedModel):
    """Loading, saving and initialisation of all HomoBERT classes."""

    config_class = HomoBertConfig
    config: HomoBertConfig
    _auto_class = None
    _can_record_outputs = {"hidden_states": HomoBertLayer, "attentions": HomoBertSelfAttention}


class HomoBertModel(HomoBertPreTrainedModel, BertModel):
    """The encoder, with or without the pooler."""

    _no_split_modules = ["BertEmbeddings", "HomoBertLayer"]

    def __init__(self, config: HomoBertConfig, add_pooling_layer: bool = True):
        HomoBertPreTrainedModel.__init__(self, config)
        self.gradient_checkpointing = False
        self.embeddings = BertEmbeddings(config)
        self.encoder = HomoBertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.post_init()


@dataclass
class HomoBertMaskedLMOutput(MaskedLMOutput):
    """Output of a masked-LM model that stopped before its decoder.

    Args:
        decoder_inputs: `(M, hidden_size)`, what the decoder makes logits of.
    """

    decoder_inputs: torch.Tensor | None = None


class HomoBertForMaskedLM(HomoBertPreTrainedModel, BertForMaskedLM):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    _tied_weights_keys = dict(BertForMaskedLM._tied_weights_keys)

    def __init__(self, config: HomoBertConfig):
        HomoBertPreTrainedModel.__init__(self, config)
        self.bert = HomoBertModel(config, add_pooling_layer=False)
        self.cls = BertOnlyMLMHead(config)
        self.post_init()
        if not config.tie_word_embeddings:
            # An untied decoder has a bias of its own: no gradient ever reaches this one, and DDP would wait for it.
            self.cls.predictions.bias.requires_grad_(False)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        masked_positions: torch.Tensor | None = None,
        skip_decoder: bool = False,
        **kwargs: Any,
    ) -> MaskedLMOutput:
        """Predict tokens at all positions, or at `masked_positions` only.

        Args:
            input_ids: `(batch, tokens)` int64.
            attention_mask: `(batch, tokens)`, 1 = token, 0 = padding.
            token_type_ids: `(batch, tokens)` int64.
            labels: `(batch, tokens)` int64, -100 = not predicted; adds `loss` to the output.
            masked_positions: `(M,)` int64 indices into batch·tokens; logits are then `(M, vocab)`.
            skip_decoder: with `masked_positions`, give `decoder_inputs` `(M, hidden_size)` instead of logits.
            kwargs: what `BertModel.forward` takes besides.

        Returns:
            [`~transformers.modeling_outputs.MaskedLMOutput`].

        Raises:
            ValueError: `labels` together with `masked_positions`.
        """
        if masked_positions is None:
            return BertForMaskedLM.forward(
                self,
                input_ids,
                attention_mask=attention_mask,
                token_type_ids=token_type_ids,
                labels=labels,
                **kwargs,
            )
        if labels is not None:
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} and masked_positions exclude each other; drop one"
            )
        outputs = self.bert(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, **kwargs)
        hidden_MH = outputs.last_hidden_state.flatten(0, 1).index_select(0, masked_positions)
        return HomoBertMaskedLMOutput(
            logits=None if skip_decoder else self.cls(hidden_MH),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            decoder_inputs=self.cls.predictions.transform(hidden_MH) if skip_decoder else None,
        )


class HomoBertForSequenceClassification(HomoBertPreTrainedModel, BertForSequenceClassification):
    """Classification or regression of whole sequences."""

    def __init__(self, config: HomoBertConfig):
        HomoBertPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.bert = HomoBertModel(config)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


class HomoBertForTokenClassification(HomoBertPreTrainedModel, BertForTokenClassification):
    """Classification of every token."""

    def __init__(self, config: HomoBertConfig):
        HomoBertPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.bert = HomoBertModel(config, add_pooling_layer=False)
        self.dropout = _classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


class HomoBertForQuestionAnswering(HomoBertPreTrainedModel, BertForQuestionAnswering):
    """Start and end of an answer."""

    def __init__(self, config: HomoBertConfig):
        HomoBertPreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.bert = HomoBertModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()


def _classifier_dropout(config: HomoBertConfig) -> nn.Dropout:
    rate = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
    return nn.Dropout(rate)
