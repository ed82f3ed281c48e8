"""BERT whose encoder multiplies bits: weights of one bit, activations of one, two, four or eight, or float ones.

In training, float weights stand behind the bits and learn through them (straight-through gradients). Packed, a weight
takes one bit and nothing is trained. Formulas are those of BiT (NeurIPS 2022, arXiv 2205.13016). The file imports
torch, transformers and the modelling files beside it only, because it travels inside exports as remote code.

Shapes: B batch, T tokens, N heads, D channels of a head, R rows, I inputs, O outputs, P packed bytes of a row,
⌈I / 8⌉.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .modeling_homobert import (
    HomoBertConfig,
    HomoBertForQuestionAnswering,
    HomoBertForSequenceClassification,
    HomoBertForTokenClassification,
    HomoBertModel,
)
from .modeling_layerwise import LayerwiseModel, encoder_layers

ACTIVATION_BITS = (1, 2, 4, 8, 32)
"""Bits that activations may have; of 32 they are the float ones."""


class BinaryBertConfig(HomoBertConfig):
    """Configuration of a BERT with one bit a weight.

    Args:
        activation_bits (`int`): Bits of every input of a matrix product in the encoder: 1, 2, 4 or 8; 32: float.
        two_sets (`bool`): Inputs that are never negative (attention's shares, the FFN's activations) take values of
            {0, …}; with `False` all inputs take signed values.
        elastic (`bool`): Scale and threshold of activations are learned; with `False` the first batch sets them.
        packed (`bool`): The file holds bits; the model only runs.
    """

    model_type = "binarybert"

    activation_bits: int = 1
    two_sets: bool = True
    elastic: bool = True
    packed: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        """Refuse other numbers of bits."""
        if self.activation_bits not in ACTIVATION_BITS:
            raise ValueError(f"activation_bits={self.activation_bits} is not supported; expected 1, 2, 4, 8 or 32")
        super().__post_init__(**kwargs)


class ElasticQuantizer(nn.Module):
    """Activations of a few bits: x_q = α · q(clip((x − β) / α, low, high)), with learnable scale α and threshold β.

    q rounds, and takes the sign for {−1, 1}; its gradient is 1 (straight-through), as for learned step sizes. The sign
    doesn't depend on α, so there ∂x_q/∂α is Sign(x − β), as in the paper. The parameters are log α and β / α: α stays
    positive, and steps of one size suit all scales.

    Args:
        bits: 1, 2, 4 or 8.
        is_signed: values {−1, 1} or −2ᵇ⁻¹ … 2ᵇ⁻¹ − 1; otherwise 0 … 2ᵇ − 1.
        is_elastic: whether α and β learn.
    """

    def __init__(self, bits: int, *, is_signed: bool, is_elastic: bool):
        super().__init__()
        # one signed bit is −1 or 1, other signed sets are two's complement, unsigned ones begin at 0
        self.is_sign = is_signed and bits == 1
        self.low: int = -1 if self.is_sign else -(2 ** (bits - 1))
        self.high: int = 1 if self.is_sign else 2 ** (bits - 1) - 1
        if not is_signed:
            self.low, self.high = 0, 2**bits - 1
        self.log_scale = nn.Parameter(torch.zeros(()), requires_grad=is_elastic)
        self.offset = nn.Parameter(torch.zeros(()), requires_grad=is_elastic)
        self.calibrates = False

    @property
    def largest(self) -> int:
        """The largest size of a whole number of the set."""
        return max(-self.low, self.high)

    @property
    def scale(self) -> torch.Tensor:
        """α, scalar."""
        return scale_of(self.log_scale)

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return whole numbers of the set, in the values' shape and type, and α; their product approximates x."""
        if self.calibrates:
            self.calibrate(values)
        if not torch.is_grad_enabled():
            return self.quantized((values / self.scale).sub_(self.offset)), self.scale
        factor = (max(1, values.numel()) * self.high) ** -0.5  # as for learned step sizes
        log_scale, offset = (_with_gradient_times(one, factor) for one in (self.log_scale, self.offset))
        scale = log_scale.exp()
        return _Quantized.apply(values, scale, offset, self), scale

    def quantized(self, scaled: torch.Tensor) -> torch.Tensor:
        """Return the whole numbers for x / α − β / α; NaN stays NaN."""
        if self.is_sign:
            return signs(scaled).add_(scaled.clamp(0, 0))  # adds 0, or NaN, which has no sign
        return scaled.clamp(self.low, self.high).round_()

    @torch.no_grad()
    def calibrate(self, values: torch.Tensor) -> None:
        """Set α from a batch: the one of least squared error, which is mean |x| where only the sign counts; β is 0.

        Any other threshold has a larger error, also one that other bits have learnt. An empty batch says nothing,
        and changes nothing.
        """
        if not values.numel():
            return
        sample = values.float().flatten()
        # steps of the golden section meet all rows and columns alike, whatever their numbers
        if len(sample) > _SAMPLE:
            places = torch.arange(_SAMPLE, dtype=torch.float64) * _GOLDEN_SECTION % 1 * len(sample)
            sample = sample[places.long().to(sample.device)]
        scale = sample.abs().mean()
        # other sets: from the scale that reaches the largest |x| down, the one of least error
        if not self.is_sign:
            scales = sample.abs().max() / self.high * _FRACTIONS.to(sample.device)
            errors = [(one * self.quantized(sample / one) - sample).square().sum() for one in scales.clamp(min=1e-8)]
            scale = scales[torch.stack(errors).argmin()]
        self.log_scale.copy_(scale.clamp(min=1e-8).log())
        self.offset.zero_()


class FloatActivations(nn.Module):
    """Stands where a quantizer would, and leaves activations as they are."""

    largest = 1
    calibrates = False

    def forward(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the values themselves, and 1 for their scale."""
        return values, values.new_ones(())


def scale_of(log_scale: torch.Tensor) -> torch.Tensor:
    """α for log α; never 0, as the α of inputs that are all 0 would be in half precision."""
    kind = torch.finfo(log_scale.dtype)
    return log_scale.exp().clamp(min=kind.tiny * kind.eps)


_SAMPLE = 2**16  # values of a batch that α starts from
_GOLDEN_SECTION = (5**0.5 - 1) / 2
_FRACTIONS = 2 ** -torch.arange(0, 8, 0.2)  # of the scale that reaches the largest value


def _with_gradient_times(parameter: torch.Tensor, factor: float) -> torch.Tensor:
    # the parameter's value, and the scaled one's gradient
    scaled = parameter * factor
    return scaled + (parameter - scaled).detach()


class _Quantized(torch.autograd.Function):
    """q of x / α − β / α, in few passes over memory."""

    @staticmethod
    def forward(
        ctx: Any, values: torch.Tensor, scale: torch.Tensor, offset: torch.Tensor, quantizer: ElasticQuantizer
    ) -> torch.Tensor:
        scaled = (values / scale).sub_(offset)
        ctx.save_for_backward(scaled, scale, offset)
        ctx.low, ctx.high, ctx.is_sign = quantizer.low, quantizer.high, quantizer.is_sign
        return quantizer.quantized(scaled)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled, scale, offset = ctx.saved_tensors
        # straight-through where nothing is clipped: low < u < high with u = x / α − o
        inside = torch.ops.aten.hardtanh_backward(gradients[0], scaled, ctx.low, ctx.high)
        of_scale = of_offset = None
        # ∂u/∂o = −1, ∂u/∂α = −(u + o) / α; of a sign only the part of o counts
        if ctx.needs_input_grad[1]:
            # by rows first: a sum of another type copies everything on a CPU
            of_offset = -inside.sum(-1).sum(dtype=scale.dtype)
            of_scale = offset * of_offset
            if not ctx.is_sign:
                of_scale = of_scale - (inside * scaled).sum(-1).sum(dtype=scale.dtype)
            of_scale = of_scale / scale
        return inside.div_(scale), of_scale, of_offset, None


class _StraightThrough(torch.autograd.Function):
    """Returns the first argument; its gradient, divided by the scale, goes to the second."""

    @staticmethod
    def forward(ctx: Any, rounded: torch.Tensor, values: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        ctx.scale = scale
        return rounded

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return None, gradients[0] if ctx.scale is None else gradients[0] / ctx.scale, None


def signs(values: torch.Tensor) -> torch.Tensor:
    """±1 of the same type, where 0 and −0 count as positive: `torch.where` takes ten times as long on a CPU."""
    # −1, 0, 1 → −0.5, 0.5, 1.5 → −1, 1, 1
    return values.sign().add_(0.5).sign_()


def weight_scale(weight: torch.Tensor) -> torch.Tensor:
    """Mean |W| of a matrix, float32."""
    # by rows: neither a copy of the matrix nor a long sum
    return torch.linalg.vector_norm(weight.detach(), 1, dim=-1, dtype=torch.float32).mean() / weight.shape[-1]


def weight_signs(weight: torch.Tensor) -> torch.Tensor:
    """sign(W − mean W) of a matrix, ±1 of its type; 0 counts as positive."""
    weight = weight.detach()
    return signs(weight - weight.mean())


class BinaryLinear(nn.Linear):
    """A linear layer of mean |W| · sign(W − mean W) on a few bits of its input; the float weight learns."""

    def __init__(self, inputs: int, outputs: int, config: BinaryBertConfig, *, is_signed: bool = True):
        super().__init__(inputs, outputs)
        self.quantizer = _quantizer(config, is_signed=is_signed)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`(…, I)` → `(…, O)`: the product is one of whole numbers, exact in float32, scaled afterwards."""
        scale = weight_scale(self.weight).clamp(min=1e-8)
        # signs forward, the gradient of W / mean |W| backward
        bits = _StraightThrough.apply(weight_signs(self.weight), self.weight, scale)
        codes, step = self.quantizer(values)
        # the largest sum of a row must fit float16
        power = power_for(self.in_features * self.quantizer.largest)
        return scaled_product(codes, bits if power == 1 else bits * power, step / power * scale, self.bias)


class PackedLinear(nn.Module):
    """The same layer with one bit a weight, for inference; `multiply`, if set, multiplies the bits themselves."""

    packed: torch.Tensor
    weight_scale: torch.Tensor

    def __init__(self, inputs: int, outputs: int, config: BinaryBertConfig, *, is_signed: bool = True):
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.register_buffer("packed", torch.zeros(outputs, -(-inputs // 8), dtype=torch.uint8))
        self.register_buffer("weight_scale", torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.quantizer = _quantizer(config, is_signed=is_signed)
        self.multiply: Any = None
        self._signs: torch.Tensor | None = None
        self.register_load_state_dict_post_hook(_forget_bits)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """`(…, I)` → `(…, O)`."""
        # bits are multiplied as they are on a CPU; calibration needs the values
        if self.multiply is not None and values.device.type == "cpu" and not self.quantizer.calibrates:
            return self.multiply(self, values)
        codes, step = self.quantizer(values)
        power = power_for(self.in_features * self.quantizer.largest)
        # unpacked once for a device and a type
        if self._signs is None or (self._signs.device, self._signs.dtype) != (codes.device, codes.dtype):
            self._signs = (unpack(self.packed, self.in_features) * power).to(codes.dtype)
        return scaled_product(codes, self._signs, step / power * self.weight_scale, self.bias)


def _forget_bits(layer: PackedLinear, _: Any) -> None:
    """Drop what was made of the former bits; a function, as a module with a lambda can't be pickled."""
    layer._signs = layer.multiply = None


def power_for(largest: int) -> float:
    """Return the power of two, 1 at most, that brings whole numbers up to `largest` into float16's range.

    A factor of a product of whole numbers is multiplied by it, and the scale divided: nothing is rounded by that.
    """
    # 15 bits reach 32767, float16 reaches 65504
    return 2.0 ** min(0, _BITS_OF_HALF - largest.bit_length())


_BITS_OF_HALF = 15


def scaled_product(
    codes: torch.Tensor, signs: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Scale · codes Wᵀ + bias, of the product's type, which autocast chooses."""
    product = F.linear(codes, signs) * scale
    return product if bias is None else product + bias.to(product.dtype)


def pack(signs: torch.Tensor) -> torch.Tensor:
    """`(O, I)` of ±1 → `(O, P)` uint8: bit k of byte p is 1 where input 8p + k counts positively; padding is 0."""
    # (O, I) → (O, P, 8), filled up to whole bytes
    bits = F.pad((signs > 0).to(torch.uint8), (0, -signs.shape[1] % 8)).unflatten(1, (-1, 8))
    places = torch.arange(8, dtype=torch.uint8, device=signs.device)
    # bit k is worth 2ᵏ
    return (bits << places).sum(-1, dtype=torch.uint8)


def unpack(packed: torch.Tensor, num_inputs: int) -> torch.Tensor:
    """`(O, P)` uint8 → `(O, I)` float32 of ±1; undoes [`pack`]."""
    places = torch.arange(8, dtype=torch.uint8, device=packed.device)
    # (O, P) → (O, P, 8), the lowest bit first
    bits = (packed[..., None] >> places) & 1
    # the filling is cut off; 0, 1 → −1, 1
    return 2.0 * bits.flatten(1)[:, :num_inputs].float() - 1.0


class BinaryEmbedding(nn.Embedding):
    """A table of mean |W| · sign(W − mean W)."""

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """`(…)` int64 → `(…, H)`."""
        values = super().forward(input_ids)
        # mean and scale are those of the whole table, not of the rows that are read
        bits = signs(values.detach() - self.weight.detach().mean()) * weight_scale(self.weight)
        return _StraightThrough.apply(bits.to(values.dtype), values, None)


class PackedEmbedding(nn.Module):
    """The same table with one bit a value."""

    packed: torch.Tensor
    weight_scale: torch.Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None):
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.register_buffer("packed", torch.zeros(num_embeddings, -(-embedding_dim // 8), dtype=torch.uint8))
        self.register_buffer("weight_scale", torch.ones(()))

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """`(…)` int64 → `(…, H)`, of the type of the scale."""
        rows = unpack(self.packed[input_ids.flatten()], self.embedding_dim).to(self.weight_scale.dtype)
        return (rows * self.weight_scale).unflatten(0, input_ids.shape)


class BinarySelfAttention(nn.Module):
    """Self-attention whose two products are taken of few bits: of queries, keys, values and the shares.

    `multiply`, if set, takes the products.

    Args:
        attention: the float one, whose heads and scale stay.
        config: of the model.
    """

    num_attention_heads: int
    attention_head_size: int
    scaling: float
    dropout: nn.Module
    query_bits: nn.Module
    key_bits: nn.Module
    value_bits: nn.Module

    def __init__(self, attention: nn.Module, config: BinaryBertConfig):
        super().__init__()
        for name in ("num_attention_heads", "attention_head_size", "scaling", "dropout"):
            setattr(self, name, getattr(attention, name))
        for name in ("query", "key", "value"):
            old: Any = attention.get_submodule(name)
            setattr(self, name, _linear(config, old.in_features, old.out_features))
            setattr(self, f"{name}_bits", _quantizer(config, is_signed=True))
        self.share_bits = _quantizer(config, is_signed=False)
        self.multiply: Any = None

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`(B, T, H)` → `(B, T, N · D)`, and the shares `(B, N, T, T)` before they lose bits."""
        # by head: (B, T, N · D) → (B, N, T, D)
        by_head = (self.num_attention_heads, self.attention_head_size)
        query_BNTD, key_BNTD, value_BNTD = (
            getattr(self, name)(hidden_states).unflatten(-1, by_head).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        # A = q·kᵀ / √d
        scores_BNTT = self._product(
            (self.query_bits, self.key_bits), query_BNTD, key_BNTD.transpose(-1, -2), factor=self.scaling
        )
        kept = None
        if attention_mask is not None:
            scores_BNTT = scores_BNTT + attention_mask
            kept = attention_mask.exp() > 0
        shares_BNTT = self.dropout(scores_BNTT.softmax(-1))
        context_BNTD = self._product((self.share_bits, self.value_bits), shares_BNTT, value_BNTD, kept=kept)
        return context_BNTD.transpose(1, 2).flatten(2), shares_BNTT

    def _product(
        self,
        quantizers: tuple[nn.Module, nn.Module],
        left_BNRI: torch.Tensor,
        right_BNIO: torch.Tensor,
        *,
        factor: float = 1.0,
        kept: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Factor · left · right of few bits each, `(B, N, R, O)`; what is not `kept` of left counts nothing."""
        # as a layer: bits are multiplied as they are on a CPU, but for calibration
        calibrates = any(quantizer.calibrates for quantizer in quantizers)
        if self.multiply is not None and left_BNRI.device.type == "cpu" and not calibrates:
            found = self.multiply(quantizers, left_BNRI, right_BNIO, factor=factor, kept=kept)
            if found is not None:
                return found
        (codes_BNRI, scale), (others_BNIO, other_scale) = (
            quantizer(values) for quantizer, values in zip(quantizers, (left_BNRI, right_BNIO), strict=True)
        )
        if kept is not None:  # a share of 0 may have another code
            codes_BNRI = codes_BNRI * kept
        # the largest sum must fit float16
        power = power_for(codes_BNRI.shape[-1] * quantizers[0].largest * quantizers[1].largest)
        product_BNRO = codes_BNRI @ (others_BNIO if power == 1 else others_BNIO * power)
        return product_BNRO * (scale / power * other_scale * factor)


def _quantizer(config: BinaryBertConfig, *, is_signed: bool) -> Any:
    if config.activation_bits == 32:
        return FloatActivations()
    return ElasticQuantizer(
        config.activation_bits, is_signed=is_signed or not config.two_sets, is_elastic=config.elastic
    )


def _linear(config: BinaryBertConfig, inputs: int, outputs: int, *, is_signed: bool = True) -> nn.Module:
    kind = PackedLinear if config.packed else BinaryLinear
    return kind(inputs, outputs, config, is_signed=is_signed)


def make_binary(model: LayerwiseModel) -> None:
    """Put layers of bits in the place of the encoder's linear layers and of the table of words.

    Args:
        model: with a [`BinaryBertConfig`]; its other modules, and all biases, stay float.
    """
    config = model.config
    config._attn_implementation = "eager"  # masks are added to scores here
    words = model.base_model.embeddings.word_embeddings
    kind = PackedEmbedding if config.packed else BinaryEmbedding
    model.base_model.embeddings.word_embeddings = kind(words.num_embeddings, words.embedding_dim, words.padding_idx)
    for layer in encoder_layers(model):
        layer.attention.self = BinarySelfAttention(layer.attention.self, config)
        for block, is_signed in ((layer.attention.output, True), (layer.intermediate, True), (layer.output, False)):
            block.dense = _linear(config, block.dense.in_features, block.dense.out_features, is_signed=is_signed)


class _BinaryModel(LayerwiseModel):
    """Mixin in front of a student class: builds it, then puts layers of bits in place."""

    config_class = BinaryBertConfig

    def __init__(self, config: BinaryBertConfig):
        super().__init__(config)
        make_binary(self)


class BinaryBertModel(_BinaryModel, HomoBertModel):
    """The encoder, of bits, without a pooler."""

    def __init__(self, config: BinaryBertConfig):
        super().__init__(config)
        self.pooler = None


class BinaryBertForSequenceClassification(_BinaryModel, HomoBertForSequenceClassification):
    """Classification or regression of whole sequences, of bits."""


class BinaryBertForTokenClassification(_BinaryModel, HomoBertForTokenClassification):
    """Classification of every token, of bits."""


class BinaryBertForQuestionAnswering(_BinaryModel, HomoBertForQuestionAnswering):
    """Start and end of an answer, of bits."""
