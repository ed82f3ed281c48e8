"""Embedding models of sentence-transformers: an encoder without a head, a pooling, and linear layers behind it.

Folders of both forms are read, before version 5.4 and since, without importing sentence-transformers.

Shapes: B texts, T tokens, H hidden channels, D channels of a vector.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from torch import nn
from torch.nn import functional as F
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ...files.folders import refuse_missing
from ...files.hub_errors import hub_errors
from ...files.messages import short_repr
from ...files.strict_json import fits, is_int, read_json, read_json_object
from ...files.tensors import WEIGHTS_FILE, check_weights, load_tensors
from ...models.architectures import ARCHITECTURES, config_class, max_tokens
from ...models.copy_checks import refuse_nonfinite
from ...models.cost import count_parameters
from ...models.equality import weights_digest
from ...models.loading import checked_config, config_values, load_weights, refuse_config
from ...models.tokenizers import COPY, as_it_was, check_ids, check_padding, load_tokenizer, without_unused_segments
from ...models.widths import widths_of

MODULES_FILE = "modules.json"
TRANSFORMER_FILE, SETTINGS_FILE = "sentence_bert_config.json", "config_sentence_transformers.json"
_READ = ("*.json", "*.safetensors", "*.txt", "*.model")

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


_SETTINGS: dict[str, Any] = {
    "prompts": {...: str},
    "default_prompt_name": str,
    "similarity_fn_name": str,
    "max_seq_length": int,
    "do_lower_case": bool,
}
_EXPECTED = {
    "prompts": "an object: name → text",
    **dict.fromkeys(("default_prompt_name", "similarity_fn_name"), "a name"),
    "max_seq_length": "a whole number",
    "do_lower_case": "true or false",
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
    """

    pooling: str = "mean"
    normalizes: bool = True
    max_seq_length: int = 128
    lowers: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity: str | None = None


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
        return self.dense[-1].linear.out_features if self.dense else self.encoder.config.hidden_size

    @property
    def sha256(self) -> str:
        """Digest of all that a text's vector depends on: weights, configuration, pooling, layers."""
        weights = weights_digest(self.encoder, *(layer.linear for layer in self.dense))
        parts = weights, self.settings.pooling, self.settings.normalizes, [layer.activation for layer in self.dense]
        return hashlib.sha256(repr(parts).encode("utf-8")).hexdigest()

    def vectors(self, states_BTH: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
        """The vectors of texts, `(B, D)` in the type of the states, at least float32."""
        return self.behind(pooled(states_BTH, mask_BT, self.settings.pooling))

    def behind(self, pooled_BH: torch.Tensor) -> torch.Tensor:
        """Apply the layers behind the pooling, and bring vectors to length 1 where the model does."""
        for layer in self.dense:
            pooled_BH = layer(pooled_BH)
        return F.normalize(pooled_BH, dim=-1) if self.settings.normalizes else pooled_BH

    @torch.no_grad()
    def encode(
        self,
        texts: list[str],
        *,
        batch_size: int = 32,
        prompt_name: str | None = None,
        on_batch: Callable[[int], Any] = lambda num_texts: None,
    ) -> torch.Tensor:
        """The vectors of texts, `(len(texts), D)`, on the CPU; texts of like length share a batch.

        `prompt_name` is as in [`prepared`]; `on_batch` gets the number of texts of each finished batch.
        """
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        found: dict[int, torch.Tensor] = {}
        was_training, device = self.encoder.training, self.encoder.device
        self.encoder.eval()
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            inputs = self.tokenize([texts[index] for index in indices], prompt_name).to(device)
            states = self.encoder(**inputs).last_hidden_state
            found |= dict(zip(indices, self.vectors(states, inputs["attention_mask"]).cpu(), strict=True))
            on_batch(len(indices))
        self.encoder.train(was_training)
        return torch.stack([found[index] for index in range(len(texts))])

    def tokenize(self, texts: list[str], prompt_name: str | None = None) -> Any:
        """Padded inputs of the encoder, a prompt before each text, as in [`prepared`]."""
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

    def prepared(self, text: str, prompt_name: str | None = None) -> str:
        """A text as the tokenizer gets it, behind the default prompt or the one of a name; `""` is none."""
        name = self.settings.default_prompt_name if prompt_name is None else prompt_name
        prompt = self.settings.prompts.get(name or "", "")
        whole = f"{prompt}{text}".strip()
        return whole.lower() if self.settings.lowers else whole


def reduced(model: EmbeddingModel, axes_ND: torch.Tensor) -> EmbeddingModel:
    """The model with shorter vectors: those of `model` along N axes, `(N, D)`."""
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
    found: list[Dense] = []
    for layer in layers:
        if found and found[-1].activation == "Identity":
            layer = _one_linear(found.pop().linear, layer)
        found.append(layer)
    return tuple(found)


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
        return states_BTH[:, 0]
    if pooling == "max":
        return states_BTH.masked_fill(mask_BT[..., None] == 0, -torch.inf).amax(1)
    if pooling == "lasttoken":
        places_BT = mask_BT * torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
        return states_BTH[torch.arange(len(states_BTH), device=mask_BT.device), places_BT.argmax(1)]
    if pooling == "weightedmean":
        mask_BT = mask_BT * torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
    sums_BH = (states_BTH * mask_BT[..., None]).sum(1)
    counts_B1 = mask_BT.sum(1, keepdim=True).clamp(min=1e-9)
    return sums_BH / (counts_B1.sqrt() if pooling == "mean_sqrt_len_tokens" else counts_B1)


def is_embedding_folder(name_or_path: str | Path) -> bool:
    """Whether a folder is one of sentence-transformers."""
    return (Path(name_or_path) / MODULES_FILE).is_file()


def kind_of_texts(name_or_path: str | Path) -> str | None:
    """Kind of the model in a local folder: `embedding`, `reranker` (one score a pair), or None for others."""
    config = Path(name_or_path) / "config.json"
    values = read_json_object(config, str(config)) if config.is_file() else {}
    names, labels = values.get("architectures"), values.get("id2label")
    is_classifier = isinstance(names, list) and str(names[0] if names else "").endswith("ForSequenceClassification")
    if is_classifier and isinstance(labels, dict) and len(labels) == 1:
        return "reranker"
    return "embedding" if is_embedding_folder(name_or_path) else None


def default_activation(model: str | PreTrainedModel, *, token: str | None = None) -> str | None:
    """The torch class that sentence-transformers puts behind a reranker's logit; None: its own default, a sigmoid.

    Args:
        model: folder, Hub name, of which only settings are downloaded, or a loaded model, for which no Hub is asked:
            the name that it was loaded by may be that of a folder which is no more.
        token: of the Hub.
    """
    is_loaded, name_or_path, found = False, model, {}
    if isinstance(model, PreTrainedModel):
        is_loaded, name_or_path, found = True, model.name_or_path, {"config.json": model.config.to_dict()}
    places = {"config.json": ("sentence_transformers", "activation_fn"), SETTINGS_FILE: ("activation_fn",)}
    for name, keys in places.items():
        values: Any = found.get(name) or _settings_of(str(name_or_path), name, token=token, is_cached=is_loaded)
        for key in keys:
            values = values.get(key) if isinstance(values, dict) else None
        if isinstance(values, str):
            return values
    return None


def _settings_of(source: str, name: str, *, token: str | None, is_cached: bool) -> dict[str, Any]:
    file: Path | None = Path(source) / name
    if not Path(source).is_dir():
        try:
            file = Path(hf_hub_download(source, name, token=token, local_files_only=is_cached))
        except (EntryNotFoundError, HFValidationError):  # no such file, or no repository's name
            file = None
    return read_json_object(file, str(file)) if file is not None and file.is_file() else {}


def load_embedding_model(
    name_or_path: str | Path, *, argument: str = "teacher", token: str | None = None
) -> EmbeddingModel:
    """Load a folder of sentence-transformers, or a repository of the Hub, in float32.

    Args:
        name_or_path: of the folder or repository.
        argument: name of the model in messages.
        token: of the Hub.

    Raises:
        ValueError: no such folder, a module or a setting that a student can't repeat, or an unknown encoder.
        HubError: the Hub refused or can't be reached.
    """
    if not isinstance(name_or_path, str | Path):
        raise ValueError(
            f"{argument}={short_repr(name_or_path)} is a {type(name_or_path).__name__}; expected a folder of "
            "sentence-transformers, a name on the Hub, or what load_embedding_model returned"
        )
    label = f"{argument}={str(name_or_path)!r}"
    folder = Path(name_or_path)
    refuse_missing(str(name_or_path), label)
    if not folder.is_dir():
        with hub_errors(f"{label} is no folder, and can't be read from the Hub", token=token):
            folder = Path(snapshot_download(str(name_or_path), allow_patterns=list(_READ), token=token))
    if not is_embedding_folder(folder):
        raise ValueError(f"{label} has no {MODULES_FILE}; name a folder that sentence-transformers has written")
    modules = [(kind.rpartition(".")[2], folder / path) for kind, path in read_modules(folder / MODULES_FILE)]
    kinds = [kind for kind, _ in modules]
    num_dense = kinds.count("Dense")
    normalizes = kinds[-1:] == ["Normalize"]
    if kinds != ["Transformer", "Pooling", *["Dense"] * num_dense, *["Normalize"] * normalizes]:
        raise ValueError(
            f"{label} has the modules {', '.join(kinds)}; expected Transformer, Pooling, any number of Dense, and "
            "Normalize or not"
        )
    encoder_folder = modules[0][1]
    encoder = _encoder(encoder_folder, label, argument)
    tokenizer = load_tokenizer(encoder_folder, argument=argument, remedy=COPY)
    settings = _settings(folder, encoder_folder, encoder, tokenizer)
    pooling = _pooling(modules[1][1] / "config.json", label)
    dense = tuple(_dense(path, label) for kind, path in modules if kind == "Dense")
    for layer in dense:
        refuse_nonfinite(layer.linear, label)
    return EmbeddingModel(
        encoder,
        tokenizer,
        PoolingSettings(pooling=pooling, normalizes=normalizes, **settings),
        dense,
        name=str(name_or_path),
    )


def read_modules(file: Path) -> list[tuple[str, str]]:
    """Read `modules.json`: the type of each module, and its folder below that of the model."""
    found = read_json(file, str(file))
    if not isinstance(found, list) or not all(
        isinstance(each, dict) and isinstance(each.get("type"), str) and isinstance(each.get("path"), str)
        for each in found
    ):
        raise ValueError(f"{file} is {short_repr(found)}; expected a list of modules, each with type and path")
    for each in found:
        if Path(each["path"]).is_absolute() or ".." in Path(each["path"]).parts:
            raise ValueError(f"{file} has path={short_repr(each['path'])}; expected a folder beside it")
    return [(each["type"], each["path"]) for each in found]


def encoder_config(folder: Path, label: str, *, argument: str = "teacher") -> PreTrainedConfig:
    """Read and check the configuration of an encoder without a head.

    Args:
        folder: of the encoder.
        label: first words of messages.
        argument: the user's name for the model, in other messages.

    Raises:
        ValueError: an unknown encoder, or a setting that can't be used.
    """
    values = config_values(folder, label)
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise ValueError(
            f"{label} has model_type={short_repr(model_type)}; expected one of {', '.join(ARCHITECTURES)}"
        )
    config = checked_config(values, config_class(model_type), label)
    refuse_config(config, argument)
    return config


def _encoder(folder: Path, label: str, argument: str) -> PreTrainedModel:
    config = encoder_config(folder, label, argument=argument)
    check_weights(folder, count_parameters(widths_of(config), config), label)
    remedy = "copy or download it again"
    return load_weights(AutoModel, folder, config, label=label, optional="pooler.", remedy=remedy).eval()


def _settings(folder: Path, encoder_folder: Path, encoder: Any, tokenizer: Any) -> dict[str, Any]:
    def read(file: Path) -> dict[str, Any]:
        values = read_json_object(file, str(file)) if file.is_file() else {}
        for name, shape in _SETTINGS.items():
            if values.get(name) is not None and not fits(values[name], shape):
                raise ValueError(f"{file} has {name}={short_repr(values[name])}; expected {_EXPECTED[name]}")
        return values

    own, shared = read(encoder_folder / TRANSFORMER_FILE), read(folder / SETTINGS_FILE)
    most = max_tokens(encoder.config)
    longest = own.get("max_seq_length") or tokenizer.model_max_length
    if longest < 1:
        raise ValueError(f"{encoder_folder / TRANSFORMER_FILE} has max_seq_length={longest}; expected at least 1")
    return {
        "max_seq_length": min(longest, most) if is_int(longest) else most,
        "lowers": bool(own.get("do_lower_case")),
        "prompts": {str(name): str(text) for name, text in (shared.get("prompts") or {}).items()},
        "default_prompt_name": shared.get("default_prompt_name"),
        "similarity": shared.get("similarity_fn_name"),
    }


def _pooling(file: Path, label: str) -> str:
    values = read_json_object(file, str(file))
    given = values.get("pooling_mode")
    found = [given] if isinstance(given, str) else [name for name, switch in POOLINGS.items() if values.get(switch)]
    if len(found) != 1 or found[0] not in POOLINGS:
        raise ValueError(f"{label} pools by {short_repr(given or found)}; expected one of {', '.join(POOLINGS)}")
    if values.get("include_prompt") is False:
        raise ValueError(f"{label} has include_prompt=false, so its pooling leaves prompts out; a student couldn't")
    return found[0]


def _dense(folder: Path, label: str) -> Dense:
    values = read_json_object(folder / "config.json", str(folder / "config.json"))
    activation = str(values.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{label} has activation_function={short_repr(values['activation_function'])} in {folder.name}; expected "
            f"one of {', '.join(ACTIVATIONS)}"
        )
    tensors = load_tensors(folder / WEIGHTS_FILE)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sizes = shapes.get("linear.weight", ())
    if len(sizes) != 2 or not shapes.items() <= {"linear.weight": sizes, "linear.bias": sizes[:1]}.items():
        raise ValueError(
            f"{label} has tensors of the shapes {short_repr(shapes)} in {folder.name}; expected linear.weight "
            "(outputs, inputs), and linear.bias (outputs) or not: copy it again"
        )
    weight = tensors["linear.weight"].float()
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias="linear.bias" in tensors)
    linear.load_state_dict({name.removeprefix("linear."): tensor.float() for name, tensor in tensors.items()})
    return Dense(linear.requires_grad_(False), activation)
