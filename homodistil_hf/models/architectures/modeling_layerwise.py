"""Stock encoders with widths of their own in every layer, whatever their architecture.

A student class derives from a class here and from a stock class of transformers; `student_classes` makes those of an
architecture. It first builds the stock class with tiny layers, then replaces their linear modules by modules of the
sizes in ``config.per_layer_config[i]``. Number of heads, head size and FFN size may differ from layer to layer, and
heads × head size need not equal the hidden size. Forward passes are those of transformers. The file imports torch and
transformers only, because it travels inside compact exports as remote code. models/units.py groups the parameters,
pruning/ shrinks a student.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import transformers
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import MaskedLMOutput


@dataclass(init=False, repr=False, eq=False)
class LayerwiseConfig:
    """Mixin in front of a stock configuration: widths of its own for every layer.

    Uniform widths are plain attributes. Differing ones stand in transformers' own ``per_layer_config``, under the
    stock configuration's names and ``head_dim``.

    Args:
        head_dim (`int`, *optional*):
            Channels of one head. Default: ``hidden_size // num_attention_heads``.
        softmax_head_dim (`int`, *optional*):
            Head size d of the softmax scale 1/√d. A pruned head keeps the scale it was trained with, so
            this stays the teacher's head size while ``head_dim`` shrinks. Default: each layer's ``head_dim``.
    """

    head_dim: int | None = None
    softmax_head_dim: int | None = None

    _auto_class = None  # not inherited: a process may have registered the stock class as remote code
    width_names: ClassVar[Mapping[str, str]] = {}
    """Width → the stock configuration's name for it, if that is another."""
    like_hidden_size: ClassVar[tuple[str, ...]] = ()
    """Further names of the hidden size in the stock configuration."""
    like_head_dim: ClassVar[tuple[str, ...]] = ()
    """Further names of the head size in the stock configuration, which can derive it from the hidden size."""

    def validate(self) -> None:
        """Check the configuration, layer by layer where they differ: transformers 5.14 cannot check those at once."""
        config: Any = self
        if not config.is_heterogeneous:
            super().validate()  # type: ignore[misc]
            return
        for layer in config.per_layer_config:
            layer.validate()


@dataclass(init=False, repr=False, eq=False)
class RotaryConfig(LayerwiseConfig):
    """Mixin in front of a stock configuration with rotary positions; see [`LayerwiseConfig`].

    Args:
        rotary_pairs (`dict[str, list[int]]`, *optional*):
            Type of layer → the teacher's pairs of channels that its heads keep, rising. Layers without a type are of
            type `all`. Default: all pairs.
        rotary_head_dim (`int`, *optional*):
            Channels of the teacher's heads, which these pairs are among. Default: ``softmax_head_dim``.
    """

    rotary_pairs: dict[str, list[int]] | None = None
    rotary_head_dim: int | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Read settings."""
        super().__post_init__(**kwargs)  # type: ignore[misc]
        self.leave_stock_frequencies()

    def leave_stock_frequencies(self) -> None:
        """Take the teacher's frequencies again where a saved student has those that its stock class needs."""
        config: Any = self
        if self.rotary_pairs:
            config.rope_parameters = each_rope(config.rope_parameters, _plain_rope)


def each_rope(parameters: dict[str, Any], change: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Change the frequencies of all layers, or of every type of layers that has some of its own."""
    if "rope_type" in parameters:
        return change(parameters)
    return {kind: change(of_kind) if of_kind else of_kind for kind, of_kind in parameters.items()}


def _plain_rope(parameters: dict[str, Any]) -> dict[str, Any]:
    if parameters["rope_type"] != "longrope":
        return parameters
    return {"rope_type": "default", "rope_theta": parameters["rope_theta"]}


class GroupedConfig(RotaryConfig):
    """Mixin in front of a configuration of Llama's layout, whose queries may share keys; see [`RotaryConfig`]."""

    def __post_init__(self, **kwargs: Any) -> None:
        """Read settings; an encoder reads a text once, so it keeps no keys and values for later."""
        super().__post_init__(**kwargs)
        self.use_cache = False

    def validate_architecture(self) -> None:
        """Allow any number of heads; some stock classes want it to divide the hidden size."""


def layer_head_dim(layer_config: PreTrainedConfig) -> int:
    """Return the channels of one head, by a stock configuration or one element of a student's `per_layer_config`."""
    head_dim = getattr(layer_config, "head_dim", None)
    return head_dim or layer_config.hidden_size // layer_config.num_attention_heads


def queries_per_key(layer_config: PreTrainedConfig) -> int:
    """Return the query heads that share a key and a value head in a layer."""
    num_heads = layer_config.num_attention_heads
    return num_heads // (getattr(layer_config, "num_key_value_heads", None) or num_heads)


def layer_config(config: PreTrainedConfig, layer: int) -> PreTrainedConfig:
    """Return a layer's view of a configuration, with its widths; the configuration itself if layers are alike."""
    return config.per_layer_config[layer] if config.is_heterogeneous else config


def width_name(config: PreTrainedConfig | type[PreTrainedConfig], width: str) -> str:
    """Return the configuration's name for a width."""
    return getattr(config, "width_names", {}).get(width, width)


def write_widths(config: PreTrainedConfig, hidden_size: int, layers: list[dict[str, int]]) -> None:
    """Set the widths of a student's configuration: plain attributes when uniform, `per_layer_config` when not.

    Args:
        config: changed in place.
        hidden_size: the hidden size of all layers.
        layers: `num_attention_heads`, `head_dim` and `intermediate_size` of each layer.
    """
    config.per_layer_config = None
    for name in ("hidden_size", *getattr(config, "like_hidden_size", ())):
        setattr(config, name, hidden_size)
    named = [{width_name(config, width): value for width, value in layer.items()} for layer in layers]
    # as many queries as before share a key
    if num_keys := getattr(config, "num_key_value_heads", None):
        shared = config.num_attention_heads // num_keys
        named = [layer | {"num_key_value_heads": max(1, layer["num_attention_heads"] // shared)} for layer in named]
    # the first layer's as plain attributes; where layers differ, overrides for every layer besides
    for name, value in named[0].items():
        setattr(config, name, value)
    if any(layer != named[0] for layer in named):
        config.per_layer_config = dict(enumerate(named))


class ScaledLinear(nn.Linear):
    """A linear layer with a factor on its outputs, for attention that derives its softmax scale from the head size."""

    factor = 1.0

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """`(…, I)` → `(…, O)`."""
        outputs = super().forward(states)
        return outputs if self.factor == 1.0 else outputs * self.factor


class LayerwiseModel(PreTrainedModel):
    """Mixin in front of a stock class: linear layers of their own sizes; subclasses name the linear layers.

    Inputs and outputs are those of the stock class.
    """

    _auto_class = None

    layers_path: ClassVar[str] = "encoder.layer"
    attention_path: ClassVar[str] = "attention.self"
    into_attention: ClassVar[tuple[str, ...]] = ("attention.self.query", "attention.self.key", "attention.self.value")
    into_ffn: ClassVar[tuple[str, ...]] = ("intermediate.dense",)
    num_fused: ClassVar[tuple[int, int]] = (1, 1)
    """Outputs of a linear layer as a multiple of heads × head size, and of an FFN's neurons."""
    keys_and_values: ClassVar[tuple[str, ...]] = ()
    """Those among them whose outputs several queries may share."""
    head_norms: ClassVar[tuple[str, ...]] = ()
    """Norms over the channels of a head."""
    out_of_attention: ClassVar[str] = "attention.output.dense"
    out_of_ffn: ClassVar[str] = "output.dense"
    queries: ClassVar[tuple[str, ...]] = ("attention.self.query",)
    scales_queries: ClassVar[bool] = False
    """Whether attention takes its softmax scale from the present head size, so that queries must compensate."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any):
        # Build the stock class as narrow as it can be, give its modules the true configuration back, then put linear
        # layers of the right sizes in place. Memory for the wide stock layers is never taken.
        narrow = copy.deepcopy(config)
        write_widths(narrow, config.hidden_size, [{"num_attention_heads": 1, "head_dim": 1, "intermediate_size": 1}])
        # some heads look their encoder up by its configuration's class: the stock one, which comes behind the mixins
        narrow.__class__ = next(kind for kind in type(config).__mro__ if not issubclass(kind, LayerwiseConfig))
        super().__init__(narrow, *args, **kwargs)
        # the stock constructor chose the attention for the narrow copy
        config._attn_implementation = narrow._attn_implementation
        # Encoder first: of tied weights `save_pretrained` keeps the first name, which must be the embeddings'.
        for name in [name for name, _ in self.named_children() if name != self.base_model_prefix]:
            self._modules[name] = self._modules.pop(name)
        for module in self.modules():
            if getattr(module, "config", None) is narrow:
                module.config = config
        for index, layer in enumerate(encoder_layers(self)):
            self._build(layer, layer_config(config, index))
        self.build_shared(config)
        self.post_init()

    def _build(self, layer: nn.Module, widths: PreTrainedConfig) -> None:
        """Give the linear layers of a layer their sizes."""
        hidden, attention = widths.hidden_size, widths.num_attention_heads * layer_head_dim(widths)
        ffn = getattr(widths, width_name(widths, "intermediate_size"))
        # linear layer → (inputs, outputs)
        sizes = dict.fromkeys(self.into_attention, (hidden, self.num_fused[0] * attention))
        sizes |= dict.fromkeys(self.keys_and_values, (hidden, attention // queries_per_key(widths)))
        sizes |= dict.fromkeys(self.into_ffn, (hidden, self.num_fused[1] * ffn))
        sizes |= {self.out_of_attention: (attention, hidden), self.out_of_ffn: (ffn, hidden)}
        present = dict(layer.named_modules())
        for name, (inputs, outputs) in sizes.items():
            if name in present:  # a configuration may switch some off
                kind = ScaledLinear if self.scales_queries and name in self.queries else nn.Linear
                layer.set_submodule(name, kind(inputs, outputs, bias=present[name].bias is not None))
        for name in self.head_norms:
            present[name].weight = nn.Parameter(torch.ones(layer_head_dim(widths)))
        self.set_layer_widths(layer, widths)

    def build_shared(self, config: Any) -> None:
        """Resize the modules that all layers share, such as MPNet's relative positions; none by default."""

    def note_units(self, units: Mapping[str, torch.Tensor]) -> None:
        """Note the kept units in the configuration, if it has a field for them; called before parameters are cut.

        Args:
            units: group that loses units → int64 indices of the kept ones.
        """

    def set_shared_widths(self) -> None:
        """Rebuild, from the configuration, buffers that all layers share; none by default."""

    def set_layer_widths(self, layer: nn.Module, widths: PreTrainedConfig) -> None:
        """Set the head count, head size and softmax scale of a layer's attention.

        Args:
            layer: of the encoder; its parameters have these widths already.
            widths: its view of the configuration.
        """
        num_heads, head_dim = widths.num_attention_heads, layer_head_dim(widths)
        softmax_head_dim = widths.softmax_head_dim or head_dim
        # every architecture has some of these attributes, by names of its own
        known = {
            **dict.fromkeys(("num_attention_heads", "n_heads"), num_heads),
            **dict.fromkeys(("attention_head_size", "head_dim"), head_dim),
            "all_head_size": num_heads * head_dim,
            "num_key_value_groups": queries_per_key(widths),
            "scaling": softmax_head_dim**-0.5,
        }
        attention = layer.get_submodule(self.attention_path)
        for name in known.keys() & vars(attention).keys():
            setattr(attention, name, known[name])
        # attention that divides by √d' gets queries times √(d'/d), so the scale stays 1/√d
        for name, module in layer.named_modules():
            if isinstance(module, ScaledLinear) and name in self.queries:
                module.factor = self.query_factor(head_dim, softmax_head_dim)

    def query_factor(self, head_dim: int, softmax_head_dim: int) -> float:
        """Return the factor of queries where scores are divided by √head_dim instead of √softmax_head_dim."""
        return (head_dim / softmax_head_dim) ** 0.5


class RotaryLayers(LayerwiseModel):
    """Mixin in front of a stock class with rotary positions and linear layers by the names that most of them use.

    Positions turn channels c and c + d/2 of a head with one frequency. Heads can be smaller if all layers of a type
    keep the same pairs; the frequencies of these pairs stay.
    """

    scales_rotation: ClassVar[bool] = False
    """Whether attention takes its softmax scale from the present head size, so that rotations must compensate."""
    layers_path = "layers"
    attention_path = "self_attn"
    into_attention: ClassVar[tuple[str, ...]] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    keys_and_values: ClassVar[tuple[str, ...]] = ("self_attn.k_proj", "self_attn.v_proj")
    out_of_attention = "self_attn.o_proj"
    into_ffn: ClassVar[tuple[str, ...]] = ("mlp.gate_proj", "mlp.up_proj")
    out_of_ffn = "mlp.down_proj"
    queries: ClassVar[tuple[str, ...]] = ("self_attn.q_proj",)

    @property
    def layer_kinds(self) -> list[str]:
        """The type of each layer; layers of a type share the frequencies of their rotary positions."""
        return [ALL_LAYERS] * self.config.num_hidden_layers

    def build_shared(self, config: Any) -> None:
        """Compute the frequencies of positions."""
        self.rotary_class = kept_pairs(type(self.base_model.rotary_emb), scales=self.scales_rotation)
        self.set_shared_widths()

    def set_shared_widths(self) -> None:
        """Compute the frequencies of positions for the size of the teacher's heads.

        Raises:
            ValueError: the configuration's pairs don't fit its head size.
        """
        num_pairs, kept = whole_head_dim(self.config) // 2, self.config.rotary_pairs or {}
        for index, kind in enumerate(self.layer_kinds):
            pairs, head_dim = kept.get(kind, range(num_pairs)), layer_head_dim(layer_config(self.config, index))
            if 2 * len(pairs) != head_dim or not set(pairs) <= set(range(num_pairs)):
                raise ValueError(
                    f"rotary_pairs[{kind!r}]={pairs} doesn't fit head_dim={head_dim} in layer {index}; expected "
                    f"{head_dim // 2} pairs below {num_pairs}"
                )
        # frequencies depend on the head size: those of whole heads, of which the rotary embedding keeps some
        whole = copy.deepcopy(self.config)
        widths = {"num_attention_heads": 1, "head_dim": whole_head_dim(whole), "intermediate_size": 1}
        write_widths(whole, whole.hidden_size, [widths])
        self.base_model.rotary_emb = self.rotary_class(whole).to(self.device)

    def note_units(self, units: Mapping[str, torch.Tensor]) -> None:
        """Note in the configuration which of its pairs stay."""
        pairs = dict(self.config.rotary_pairs or {})
        for kind in sorted(set(self.layer_kinds)):
            # kept counts among the present pairs, the configuration among the teacher's
            if (kept := units.get(f"query_key.{kind}")) is not None:
                before = pairs.get(kind, range(whole_head_dim(self.config) // 2))
                pairs[kind] = [before[index] for index in kept.tolist()]
        self.config.rotary_pairs, self.config.rotary_head_dim = pairs or None, whole_head_dim(self.config)


def kept_pairs(stock_class: Any, *, scales: bool) -> Any:
    """Return a rotary embedding with the frequencies of the pairs that a configuration keeps.

    Args:
        stock_class: transformers' rotary embedding.
        scales: whether queries and keys get a factor (d'/d)^¼ each, for attention that divides scores by √d' with d' =
            `head_dim`; together with both factors, by the teacher's √d.
    """

    class RotaryEmbedding(stock_class):
        """Rotary embedding with the frequencies of the kept pairs."""

        @staticmethod
        def compute_default_rope_parameters(
            config: Any, device: torch.device | None = None, layer_type: str | None = None, **kwargs: Any
        ) -> tuple[torch.Tensor, float]:
            """Return the frequencies, `(pairs,)` float32, and the factor of queries and keys."""
            of_type = {} if layer_type is None else {"device": device, "layer_type": layer_type}
            frequencies, factor = stock_class.compute_default_rope_parameters(config, **of_type)
            pairs = config.rotary_pairs or {}
            if not (kept := pairs.get(layer_type) or pairs.get(ALL_LAYERS)):
                return frequencies, factor
            return frequencies[kept], factor * (len(kept) / len(frequencies)) ** (0.25 if scales else 0)

    return RotaryEmbedding


ALL_LAYERS = "all"
"""Type of all layers where it makes no difference to their rotary positions."""


def whole_head_dim(config: Any) -> int:
    """Return the channels of a head before any rotary pair was dropped."""
    return config.rotary_head_dim or config.softmax_head_dim or layer_head_dim(layer_config(config, 0))


def encoder_layers(model: LayerwiseModel) -> Any:
    """Return the layers of a student, with any head or none."""
    return model.base_model.get_submodule(model.layers_path)


@dataclass
class LayerwiseMaskedLMOutput(MaskedLMOutput):
    """Output of a masked-LM model that stopped before its decoder.

    Args:
        decoder_inputs: `(M, hidden_size)`, the inputs of the decoder.
    """

    decoder_inputs: torch.Tensor | None = None


class LayerwiseMaskedLM(LayerwiseModel):
    """Masked-LM model; its head can run at chosen positions only, and stop before its decoder."""

    unused_if_untied: ClassVar[str | None] = None
    """A bias that an untied decoder doesn't use: it never gets a gradient, for which DDP would wait."""

    def __init__(self, config: Any):
        super().__init__(config)
        if self.unused_if_untied is not None and not config.tie_word_embeddings:
            self.get_parameter(self.unused_if_untied).requires_grad_(False)

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        raise NotImplementedError

    @property
    def decoder_layer(self) -> Any:
        """Return an object with the decoder's `weight` and `bias`."""
        return self.get_output_embeddings()

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
            token_type_ids: `(batch, tokens)` int64, for architectures with segments.
            labels: `(batch, tokens)` int64, -100 = not predicted; adds `loss` to the output.
            masked_positions: `(M,)` int64 indices into batch·tokens; logits are then `(M, vocab)`.
            skip_decoder: with `masked_positions`, return `decoder_inputs` `(M, hidden_size)` instead of logits.
            kwargs: other arguments of the stock class.

        Returns:
            [`~transformers.modeling_outputs.MaskedLMOutput`].

        Raises:
            ValueError: `labels` together with `masked_positions`.
        """
        if token_type_ids is not None:  # not every stock class accepts them
            kwargs["token_type_ids"] = token_type_ids
        if masked_positions is None:
            return super().forward(input_ids, attention_mask=attention_mask, labels=labels, **kwargs)
        if labels is not None:
            raise ValueError(
                f"labels of shape {tuple(labels.shape)} and masked_positions exclude each other; drop one"
            )
        outputs = self.base_model(input_ids, attention_mask=attention_mask, **kwargs)
        # (B, T, H) → (M, H): the head runs on these rows alone
        states = outputs.last_hidden_state.flatten(0, 1).index_select(0, masked_positions)
        transformed, decoder = self.transform(states), self.decoder_layer
        return LayerwiseMaskedLMOutput(
            logits=None if skip_decoder else F.linear(transformed, decoder.weight, decoder.bias),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            decoder_inputs=transformed if skip_decoder else None,
        )


class BertMaskedLM(LayerwiseMaskedLM):
    """Masked-LM model with BERT's head."""

    unused_if_untied = "cls.predictions.bias"

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        return self.cls.predictions.transform(states)


class RobertaMaskedLM(LayerwiseMaskedLM):
    """Masked-LM model with RoBERTa's head."""

    unused_if_untied: ClassVar[str | None] = "lm_head.bias"

    def transform(self, states: torch.Tensor) -> torch.Tensor:
        """Turn the encoder's last states, `(…, hidden_size)`, into the decoder's inputs."""
        head = self.lm_head
        return head.layer_norm(F.gelu(head.dense(states)))


_CLASSES = {
    "Model": "The encoder, with or without the pooler.",
    "ForMaskedLM": "Masked-LM model; its head can run at chosen positions only, and stop before its decoder.",
    "ForSequenceClassification": "Classification or regression of whole sequences.",
    "ForTokenClassification": "Classification of every token.",
    "ForQuestionAnswering": "Start and end of an answer.",
}
"""End of a class's name → its docstring."""


def student_classes(
    module: str,
    stock: str,
    config: type[LayerwiseConfig] = LayerwiseConfig,
    layers: type[LayerwiseModel] = LayerwiseModel,
    masked_lm: type[LayerwiseMaskedLM] | None = None,
    others: Mapping[str, str] | None = None,
) -> dict[str, type[Any]]:
    """Return the student classes of an architecture by name, `Homo` and the stock class's; for a module's globals.

    They are a configuration and a model for each stock class.

    Args:
        module: name of the module that holds them.
        stock: beginning of the names of the stock classes.
        config: mixin in front of the stock configuration.
        layers: names the linear layers.
        masked_lm: runs the masked-LM head; None for architectures without one.
        others: end of the name of a class besides the usual ones → its docstring.
    """
    stock_config = getattr(transformers, f"{stock}Config")
    found: dict[str, type[Any]] = {}

    def make(end: str, doc: str, *bases: type[Any], **content: Any) -> None:
        content |= {"__module__": module, "__doc__": doc}
        found[f"Homo{stock}{end}"] = type(f"Homo{stock}{end}", bases, content)

    of_config = f"Configuration of a model whose layers may differ in width; see [`{config.__name__}`]."
    # a head size of its own that the stock class has by default, as the mixin has none
    head_dim = getattr(stock_config, "head_dim", None)
    own = {} if head_dim is None else {"head_dim": head_dim, "__annotations__": {"head_dim": int}}
    make("Config", of_config, config, stock_config, model_type=f"homo{stock_config.model_type}", **own)
    for end, doc in {**_CLASSES, **(others or {})}.items():
        stock_class = getattr(transformers, f"{stock}{end}", None)
        mixins = (layers,) if end != "ForMaskedLM" else (masked_lm, layers)
        if stock_class is not None and None not in mixins:
            make(end, doc, *mixins, stock_class, config_class=found[f"Homo{stock}Config"])
    return found
