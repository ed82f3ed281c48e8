"""Embedding models of sentence-transformers: an encoder without a head, a pooling, and linear layers behind it.

`reading.py` reads their folders.

Shapes: B texts, T tokens, H hidden channels, D channels of a vector.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from tqdm.auto import trange
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..models.equality import weights_digest
from ..models.tokenizers import as_it_was, check_ids, check_padding, without_unused_segments
from .metrics import COSINE

POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Name of a pooling in newer folders → its switch in older ones."""
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "Identity": nn.Identity,
    "Tanh": nn.Tanh,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "Sigmoid": nn.Sigmoid,
}


@dataclass(frozen=True)
class Dense:
    """One linear layer behind the pooling.

    Args:
        linear: `(D, inputs)`.
        activation: of `ACTIVATIONS`.
    """

    linear: nn.Linear
    activation: str = "Identity"

    def __call__(self, vectors: torch.Tensor) -> torch.Tensor:
        """`(B, inputs)` → `(B, D)`."""
        return ACTIVATIONS[self.activation]()(self.linear(vectors))


@dataclass(frozen=True)
class PoolingSettings:
    """How an embedding model makes a vector of a text, besides its weights.

    Args:
        pooling: of `POOLINGS`.
        normalizes: whether vectors get length 1.
        max_seq_length: tokens of a text at most, special ones included.
        lowers: whether texts are put in lower case before they are tokenized.
        prompts: name → text that is put before others.
        default_prompt_name: the prompt of texts without a prompt's name.
        similarity: `cosine`, `dot`, `euclidean` or `manhattan`; None: the library's own.
        truncate_dim: channels that are left of a vector, the first ones; None: all.
    """

    pooling: str = "mean"
    normalizes: bool = True
    max_seq_length: int = 128
    lowers: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str | None = None
    truncate_dim: int | None = None

    def prepared(self, text: str, prompt_name: str | None = None) -> str:
        """A text as the tokenizer gets it, behind the default prompt or the one of a name; `""` is none."""
        name = self.default_prompt_name if prompt_name is None else prompt_name
        prompt = self.prompts.get(name or "", "")
        whole = f"{prompt}{text}"  # with its spaces: Unigram has a token for a last one
        return whole.lower() if self.lowers else whole


@dataclass(frozen=True)
class EmbeddingModel:
    """An embedding model with its tokenizer and settings.

    Args:
        encoder: of a stock class without a head, or a student; `(B, T)` → states `(B, T, H)`.
        tokenizer: of the encoder.
        settings: pooling, length, prompts.
        dense: layers behind the pooling, in order.
        name: folder or Hub name.
    """

    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: PoolingSettings
    dense: tuple[Dense, ...] = ()
    name: str = ""

    def __post_init__(self) -> None:
        check_padding(self.tokenizer)
        without_unused_segments(self.tokenizer, self.encoder.config)

    @property
    def dimension(self) -> int:
        """Channels of a vector."""
        whole = self.dense[-1].linear.out_features if self.dense else self.encoder.config.hidden_size
        return min(whole, self.settings.truncate_dim or whole)

    @property
    def sha256(self) -> str:
        """Digest of all that a text's vector depends on: weights, configuration, pooling, layers."""
        weights = weights_digest(self.encoder, *(layer.linear for layer in self.dense))
        layers = [layer.activation for layer in self.dense]
        cut = [] if self.settings.truncate_dim is None else [self.dimension]
        whole = weights, self.settings.pooling, self.settings.normalizes, layers, *cut
        return hashlib.sha256(repr(whole).encode("utf-8")).hexdigest()

    @property
    def similarity(self) -> str:
        """The function that its vectors are compared by, of `SIMILARITIES`."""
        return self.settings.similarity or COSINE

    @property
    def prepared(self) -> Callable[..., str]:
        """[`PoolingSettings.prepared`], which a cache of rows can be found by without the model's weights."""
        return self.settings.prepared

    def vectors(self, states_BTH: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
        """The vectors of texts, `(B, D)` in the type of the states, at least float32."""
        return self.behind(pooled(states_BTH, mask_BT, self.settings.pooling))

    def behind(self, pooled_BH: torch.Tensor) -> torch.Tensor:
        """Apply the layers behind the pooling, bring vectors to length 1 where the model does, and cut them."""
        for layer in self.dense:
            pooled_BH = layer(pooled_BH)
        whole_BD = F.normalize(pooled_BH, dim=-1) if self.settings.normalizes else pooled_BH
        return whole_BD[..., : self.settings.truncate_dim]

    @torch.no_grad()
    def encode(
        self,
        texts: list[str],
        *,
        batch_size: int = 32,
        prompt_name: str | None = None,
    ) -> torch.Tensor:
        """The vectors of texts, `(len(texts), D)`, on the CPU; texts of like length share a batch.

        `prompt_name` is as in [`PoolingSettings.prepared`].
        """
        # texts of like length need little padding; a dict brings them back into their order
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors: dict[int, torch.Tensor] = {}
        self.encoder.eval()
        # a bar for what takes longer than a second
        for start in trange(0, len(order), batch_size, desc="encoding texts", disable=None, leave=False, delay=1):
            indices = order[start : start + batch_size]
            inputs = self.tokenize([texts[index] for index in indices], prompt_name).to(self.encoder.device)
            states = self.encoder(**inputs).last_hidden_state
            vectors |= dict(zip(indices, self.vectors(states, inputs["attention_mask"]).cpu(), strict=True))
        return torch.stack([vectors[index] for index in range(len(texts))])

    def tokenize(self, texts: list[str], prompt_name: str | None = None) -> Any:
        """Padded inputs of the encoder, a prompt before each text, as in [`PoolingSettings.prepared`]."""
        with as_it_was(self.tokenizer):
            inputs = self.tokenizer(
                [self.prepared(text, prompt_name) for text in texts],
                padding=True,
                truncation=True,
                max_length=self.settings.max_seq_length,
                return_tensors="pt",
            )
        ids_BT = inputs["input_ids"]
        if ids_BT.numel():
            check_ids(self.name or "a text", int(ids_BT.min()), int(ids_BT.max()), self.encoder.config.vocab_size)
        return inputs


def reduced(model: EmbeddingModel, axes_ND: torch.Tensor) -> EmbeddingModel:
    """The model with shorter vectors: those of `model` along N axes, `(N, D)`."""
    if model.settings.truncate_dim is not None:
        # the axes are those of vectors that were cut, so a layer in front of them selects the same channels
        whole = replace(model, settings=replace(model.settings, truncate_dim=None))
        model = reduced(whole, torch.eye(whole.dimension, device=axes_ND.device)[: model.dimension])
    linear = nn.Linear(axes_ND.shape[1], axes_ND.shape[0], bias=False, device=axes_ND.device)
    linear.weight = nn.Parameter(axes_ND, requires_grad=False)  # shares memory with `axes_ND`: training changes both
    return replace(model, dense=(*model.dense, Dense(linear)))


def folded(layers: Sequence[Dense]) -> tuple[Dense, ...]:
    """Merge layers without an activation between them into one; servers of vectors expect a single layer.

    Example:
    ```python
    >>> layers = Dense(nn.Linear(8, 4, bias=False)), Dense(nn.Linear(4, 2), "Tanh")
    >>> [(layer.linear.in_features, layer.linear.out_features, layer.activation) for layer in folded(layers)]
    [(8, 2, 'Tanh')]

    ```
    """
    merged: list[Dense] = []
    for layer in layers:
        # two linear maps without anything between them are one
        if merged and merged[-1].activation == "Identity":
            layer = _one_linear(merged.pop().linear, layer)
        merged.append(layer)
    return tuple(merged)


def _one_linear(first: nn.Linear, second: Dense) -> Dense:
    # W₂ (W₁ x + b₁) + b₂ = (W₂ W₁) x + (W₂ b₁ + b₂), in float64.
    weight, last = second.linear.weight.detach().double(), second.linear
    bias = torch.zeros(len(weight), dtype=torch.float64)
    if first.bias is not None:
        bias += weight @ first.bias.detach().double()
    if last.bias is not None:
        bias += last.bias.detach().double()
    has_bias = first.bias is not None or last.bias is not None
    both = nn.Linear(first.in_features, last.out_features, bias=has_bias)
    tensors = {"weight": weight @ first.weight.detach().double()} | ({"bias": bias} if has_bias else {})
    both.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return Dense(both.requires_grad_(False), second.activation)


def pooled(states_BTH: torch.Tensor, mask_BT: torch.Tensor | None, pooling: str) -> torch.Tensor:
    """One state a text, `(B, H)`, at least float32.

    Args:
        states_BTH: the encoder's last states.
        mask_BT: 1 = token, 0 = padding; None: no padding.
        pooling: of `POOLINGS`. `weightedmean`: the k-th token counts k times. `mean_sqrt_len_tokens`: the sum by the
            root of the number of tokens.

    Example:
    ```python
    >>> states = torch.tensor([[[1.0], [3.0], [9.0]]])
    >>> [float(pooled(states, torch.tensor([[1, 1, 0]]), name)) for name in ("cls", "mean", "max", "lasttoken")]
    [1.0, 2.0, 3.0, 3.0]

    ```
    """
    states_BTH = states_BTH if states_BTH.dtype == torch.float64 else states_BTH.float()
    mask_BT = torch.ones_like(states_BTH[..., 0]) if mask_BT is None else mask_BT.to(states_BTH.dtype)
    if pooling == "cls":
        return _states_at(states_BTH, mask_BT.argmax(1))  # not at 0 where padding is on the left
    if pooling == "max":
        # padding is never the largest
        return states_BTH.masked_fill(mask_BT[..., None] == 0, -torch.inf).amax(1)
    if pooling == "lasttoken":
        # tokens numbered from 1, padding 0: the largest number is the last token, on whatever side padding is
        places_BT = mask_BT * torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
        return _states_at(states_BTH, places_BT.argmax(1))
    if pooling == "weightedmean":
        # the running count gives the k-th token the weight k, padding on the left left out
        mask_BT = mask_BT * mask_BT.cumsum(1)
    # Σ_t a_t h_t / Σ_t a_t, or by the root of it
    sums_BH = (states_BTH * mask_BT[..., None]).sum(1)
    counts_B1 = mask_BT.sum(1, keepdim=True).clamp(min=1e-9)
    return sums_BH / (counts_B1.sqrt() if pooling == "mean_sqrt_len_tokens" else counts_B1)


def _states_at(states_BTH: torch.Tensor, places_B: torch.Tensor) -> torch.Tensor:
    # By `gather`: an index for each row would fix the number of rows in an exported graph.
    return states_BTH.gather(1, places_B[:, None, None].expand(-1, 1, states_BTH.shape[-1])).squeeze(1)
