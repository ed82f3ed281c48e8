"""Embedding models of sentence-transformers: an encoder without a head, a pooling, and linear layers behind it.

Their folders and repositories of the Hub are read without importing sentence-transformers, of both forms, before
version 5.4 and since.

Shapes: B texts, T tokens, H hidden channels, D channels of a vector.
"""

import copy
import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, TypeAlias

import torch
from huggingface_hub import snapshot_download
from torch import nn
from torch.nn import functional as F
from tqdm.auto import trange
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import CHAT_TEMPLATE_FILE

from ..files.folders import refuse_missing
from ..files.hub_errors import hub_errors
from ..files.messages import first_line, first_of, short_repr
from ..files.model_files import model_file
from ..files.strict_json import fits, is_int, read_json, read_json_object
from ..files.tensors import WEIGHTS_FILE, check_weights, load_tensors
from ..models.architectures import ARCHITECTURES, architecture_of, config_class, max_tokens
from ..models.cost import count_parameters
from ..models.equality import evaluation_mode, weights_digest
from ..models.loading import (
    MODULES_FILE,
    SENTENCE_FILE,
    checked_config,
    config_values,
    load_weights,
    refuse_config,
    refuse_nonfinite,
)
from ..models.tokenizers import (
    COPY,
    TOKENIZER_CONFIG_FILE,
    as_it_was,
    check_ids,
    check_padding,
    load_tokenizer,
    without_unused_segments,
)
from ..models.widths import widths_of
from .metrics import COSINE, SIMILARITIES
from .texts import RowsOf, prepared_rows

logger = logging.getLogger(__name__)

POOLINGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
"""Name of a pooling in newer folders → its switch in older ones."""
ACTIVATIONS = {kind.__name__: kind for kind in (nn.Identity, nn.Tanh, nn.ReLU, nn.GELU, nn.Sigmoid)}
TRANSFORMER_FILE, SETTINGS_FILE = "sentence_bert_config.json", SENTENCE_FILE
TRANSFORMER_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""The library reads the first of these that it finds."""
_PICKLED_FILE = "pytorch_model.bin"
_READ = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", f"*/{_PICKLED_FILE}")
_LIBRARY = "sentence_transformers."
BITS_TYPE = "binarybert"
"""Model type of an encoder of bits, whose code is loaded for such a one alone."""


def _one_of(names: Sequence[str]) -> tuple[Callable[[Any], bool], str]:
    return names.__contains__, f"one of {', '.join(names)}"


Checks: TypeAlias = Mapping[str, tuple[Callable[[Any], bool], str]]
"""Setting → whether a value can be used, and the words for it."""
COUNT = (lambda value: is_int(value) and value > 0), "a whole number of at least 1"
_SETTINGS: Checks = {
    "prompts": (partial(fits, shape={...: str | None}), "an object: name → text or null"),
    "default_prompt_name": (partial(fits, shape=str), "a name"),
    "similarity_fn_name": _one_of(SIMILARITIES),
    "max_seq_length": COUNT,
    "truncate_dim": COUNT,
    "do_lower_case": (partial(fits, shape=bool), "true or false"),
}
_TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}
# weights, order of modules and versions say as much
_SILENT_KEYS = {"__version__", "model_type", "type", "path", "idx", "name", "unpad_inputs"}
VECTOR_KEYS = {
    *(*_SILENT_KEYS, *_SETTINGS, *POOLINGS.values(), "pooling_mode", "activation_function"),
    *("word_embedding_dimension", "embedding_dimension", "in_features", "out_features", "bias"),
}
_USUAL_PROMPTS = ("", "query", "document")
"""Names that sentence-transformers gives every model; an empty one is no prompt."""
SCORE_KEYS = {*_SILENT_KEYS, "activation_fn"}
"""Keys of a folder's JSON files that are read for vectors, and for scores, or that change neither."""
_USUAL: dict[str, tuple[Any, ...]] = {
    "transformer_task": ("feature-extraction", "sequence-classification"),
    "modality_config": ({"text": _TEXT}, {"text": _TEXT | {"method_output_name": "logits"}}),
    "module_input_name": ("sentence_embedding",),
    "module_output_name": (None, "sentence_embedding", "token_embeddings", "scores"),
    "include_prompt": (True,),
}
"""Others → the values that change no vector or score; of all that are not here: null, false, 0 and nothing."""
_REFUSED = ("module_input_name", "module_output_name", "include_prompt", "use_residual")
"""Keys whose other values make other vectors; all other keys are named as not used."""


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
        encoder: of a stock class without a head, a student, or of bits; `(B, T)` → states `(B, T, H)`.
        tokenizer: of the encoder.
        settings: pooling, length, prompts.
        dense: layers behind the pooling, in order.
        name: folder or Hub name.
        target: of what a student of given vectors starts from, these vectors, as `TeacherVectors`. The student's map
            leads to them, in place of the layers behind the pooling.
    """

    encoder: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: PoolingSettings
    dense: tuple[Dense, ...] = ()
    name: str = ""
    target: Any = None
    kind: ClassVar[str] = "an embedding model"
    """In the words of messages."""

    def __post_init__(self) -> None:
        check_padding(self.tokenizer)
        without_unused_segments(self.tokenizer, self.encoder.config)

    @property
    def dimension(self) -> int:
        """Channels of a vector."""
        pooled_size = self.encoder.config.hidden_size if self.target is None else self.target.dimension
        whole = self.dense[-1].linear.out_features if self.dense else pooled_size
        return min(whole, self.settings.truncate_dim or whole)

    @property
    def stock_encoder(self) -> PreTrainedModel:
        """The encoder as folders hold it."""
        return self.encoder

    @property
    def sha256(self) -> str:
        """Digest of all that a text's vector depends on: weights, configuration, pooling, layers."""
        weights = weights_digest(self.encoder, *(layer.linear for layer in self.dense))
        layers = [layer.activation for layer in self.dense]
        cut = [] if self.settings.truncate_dim is None else [self.dimension]
        whole = weights, self.settings.pooling, self.settings.normalizes, layers, *cut
        return hashlib.sha256(repr(whole).encode("utf-8")).hexdigest()

    @property
    def prompts(self) -> Mapping[str, str]:
        """What texts of a source may be read as: name → what stands before them."""
        return self.settings.prompts

    @property
    def similarity(self) -> str:
        """The function that its vectors are compared by, of `SIMILARITIES`."""
        return self.settings.similarity or COSINE

    def vectors(self, states_BTH: torch.Tensor, mask_BT: torch.Tensor | None) -> torch.Tensor:
        """The vectors of texts, `(B, D)` in the type of the states, at least float32."""
        return self.behind(pooled(states_BTH, mask_BT, self.settings.pooling))

    def pool(self, states_BTH: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The states that pass the layers behind the pooling, a row a vector, at least float32."""
        return pooled(states_BTH, inputs.get("attention_mask"), self.settings.pooling)

    def behind(self, pooled_BH: torch.Tensor) -> torch.Tensor:
        """Apply the layers behind the pooling, bring vectors to length 1 where the model does, and cut them."""
        for layer in self.dense:
            pooled_BH = layer(pooled_BH)
        whole_BD = F.normalize(pooled_BH, dim=-1) if self.settings.normalizes else pooled_BH
        return whole_BD[..., : self.settings.truncate_dim]

    def encode(
        self,
        texts: Iterable[str],
        *,
        batch_size: int = 32,
        prompt_name: str | None = None,
    ) -> torch.Tensor:
        """The vectors of texts, `(len(texts), D)`, on the CPU; texts of like length share a batch.

        `prompt_name` is as in [`PoolingSettings.prepared`].
        """
        vectors = self.encode_each(texts, batch_size=batch_size, prompt_name=prompt_name)
        return torch.stack(vectors) if vectors else torch.empty(0, self.dimension)

    @torch.no_grad()
    def encode_each(
        self, texts: Iterable[str], *, batch_size: int = 32, prompt_name: str | None = None
    ) -> list[torch.Tensor]:
        """The vector of each text, on the CPU; arguments as `encode`."""
        texts = listed(texts)
        if prompt_name is not None and prompt_name not in {*self.prompts, *_USUAL_PROMPTS}:
            known = ", ".join(map(repr, sorted({*self.prompts, *_USUAL_PROMPTS} - {""})))
            raise ValueError(f"prompt_name={short_repr(prompt_name)} is none of this model's prompts: {known}")
        # texts of like length need little padding; a dict brings them back into their order
        order = sorted(range(len(texts)), key=lambda index: -len(texts[index]))
        vectors: dict[int, torch.Tensor] = {}
        # a bar for what takes longer than a second
        starts = trange(0, len(order), batch_size, desc="encoding texts", disable=None, leave=False, delay=1)
        with evaluation_mode(self.encoder):
            for start in starts:
                indices = order[start : start + batch_size]
                inputs = self.tokenize([texts[index] for index in indices], prompt_name).to(self.encoder.device)
                vectors |= dict(zip(indices, self.each_of(self.of_inputs(inputs).cpu(), inputs), strict=True))
        return [vectors[index] for index in range(len(texts))]

    def each_of(self, vectors: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> Sequence[torch.Tensor]:
        """What each text of a batch has of its vectors."""
        return vectors.unbind()

    def of_inputs(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The vectors of padded texts, `(B, D)`."""
        return self.vectors(self.encoder(**inputs).last_hidden_state, inputs["attention_mask"])

    def rows_of(self, max_length: int, prompt_name: str | None = None) -> RowsOf:
        """What makes rows to train on: texts behind a prompt, cut at `max_length`; without the model's weights."""
        prepare = partial(self.settings.prepared, prompt_name=prompt_name)
        return partial(prepared_rows, tokenizer=self.tokenizer, max_length=max_length, prepare=prepare)

    def tokenize(self, texts: list[str], prompt_name: str | None = None) -> Any:
        """Padded inputs of the encoder, a prompt before each text, as in [`PoolingSettings.prepared`]."""
        with as_it_was(self.tokenizer):
            inputs = self.tokenizer(
                [self.settings.prepared(text, prompt_name) for text in texts],
                padding=True,
                truncation=True,
                max_length=self.settings.max_seq_length,
                return_tensors="pt",
            )
        ids_BT = inputs["input_ids"]
        if ids_BT.numel():
            check_ids(self.name or "a text", int(ids_BT.min()), int(ids_BT.max()), self.encoder.config.vocab_size)
        return inputs


def listed(texts: Iterable[Any]) -> list[str]:
    """Texts as a list.

    Raises:
        ValueError: a single text, whose characters would pass for texts, or an entry that is none.
    """
    if isinstance(texts, str):
        raise ValueError(f"texts={short_repr(texts)} is one text; pass a list of texts")
    found = list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise ValueError(f"texts[{place}]={short_repr(text)} is no text; leave it out")
    return found


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


@torch.no_grad()
def _one_linear(first: nn.Linear, second: Dense) -> Dense:
    # W₂ (W₁ x + b₁) + b₂ = (W₂ W₁) x + (W₂ b₁ + b₂), in float64
    one, two = (copy.deepcopy(linear).double() for linear in (first, second.linear))
    both = nn.Linear(one.in_features, two.out_features, bias=one.bias is not None or two.bias is not None)
    both.weight.copy_(two.weight @ one.weight)
    if both.bias is not None:
        both.bias.copy_(two(one(one.weight.new_zeros(one.in_features))))  # what the two make of 0
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
        # zeros of a text without tokens, as in sentence-transformers
        return _states_at(states_BTH * mask_BT[..., None], places_BT.argmax(1))
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


# Reading


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
    label = f"{argument}={str(name_or_path)!r}"
    folder = model_folder(name_or_path, label, token=token)
    # the order is known: Transformer, Pooling, any number of Dense, Normalize or not
    modules = student_modules(folder / MODULES_FILE, label)
    (_, first), (_, second), *others = [(kind, folder / path) for kind, path in modules]
    encoder, tokenizer = load_encoder_in(first, label, argument=argument)
    pooling = pooling_in(second / "config.json", label)
    name_unused(str(folder), [path for _, path in modules], label)
    normalizes = modules[-1][0] == "Normalize"
    settings = PoolingSettings(pooling, normalizes, **settings_in(folder, first, encoder, tokenizer))
    dense = tuple(read_dense(path, label) for kind, path in others if kind == "Dense")
    return EmbeddingModel(encoder, tokenizer, settings, dense, name=str(name_or_path))


def pooling_in(file: Path, label: str) -> str:
    """Read how a model pools, one of `POOLINGS`, from its module's settings; a ValueError for any other way."""
    values = read_json_object(file, str(file))
    mode = values.get("pooling_mode")
    poolings = [mode] if isinstance(mode, str) else [name for name, switch in POOLINGS.items() if values.get(switch)]
    if len(poolings) != 1 or poolings[0] not in POOLINGS:
        raise ValueError(f"{label} pools by {short_repr(mode or poolings)}; expected one of {', '.join(POOLINGS)}")
    return str(poolings[0])


def model_folder(name_or_path: str | Path, label: str, *, token: str | None = None) -> Path:
    """The folder of a model of sentence-transformers, where the Hub's is downloaded; arguments as [`name_unused`]."""
    folder = Path(name_or_path)
    refuse_missing(str(name_or_path), label)
    if not folder.is_dir():
        with hub_errors(f"{label} is no folder, and can't be read from the Hub", token=token):
            folder = Path(snapshot_download(str(name_or_path), allow_patterns=list(_READ), token=token))
    if not (folder / MODULES_FILE).is_file():
        raise ValueError(f"{label} has no {MODULES_FILE}; name a folder that sentence-transformers has written")
    return folder


def load_encoder_in(
    first: Path, label: str, *, argument: str = "teacher", auto_class: Any = AutoModel
) -> tuple[Any, PreTrainedTokenizerBase]:
    """Load the first module of a model in float32, `auto_class` naming its head, and its tokenizer."""
    config = encoder_config(first, label, argument=argument)
    if not (has_bits := config.model_type == BITS_TYPE):
        check_weights(first, count_parameters(widths_of(config), config), label)
    tokenizer = load_tokenizer(first, argument=argument, remedy=COPY, config=config if has_bits else None)
    tokenizer.chat_template = None
    # Some published configurations name another token of padding, whose row learns nothing: the tokenizer's counts.
    # Where positions begin behind it, both must be the same.
    if tokenizer.pad_token_id not in (None, config.pad_token_id):
        if architecture_of(config).first_position(config):
            raise ValueError(
                f"{label} has pad_token_id={config.pad_token_id} in its config.json, but its tokenizer pads with "
                f"{tokenizer.pad_token_id}, and positions begin behind it; mend the one that is wrong"
            )
        if tokenizer.pad_token_id >= config.vocab_size:
            raise ValueError(
                f"{label} has a tokenizer that pads with {tokenizer.pad_token_id}, and {config.vocab_size} rows of "
                "embeddings; resize them with resize_token_embeddings"
            )
        config.pad_token_id = tokenizer.pad_token_id
    remedy = "copy or download it again"
    if has_bits and auto_class is AutoModel:
        from ..models.architectures.modeling_binarybert import BinaryBertModel

        auto_class = BinaryBertModel
    encoder = load_weights(auto_class, first, config, label=label, optional="pooler.", remedy=remedy).eval()
    return encoder, tokenizer


def name_unused(
    source: str,
    paths: Sequence[str],
    label: str,
    *,
    read: Collection[str] = VECTOR_KEYS,
    token: str | None = None,
) -> None:
    """Name in a warning what a folder holds and isn't read; a ValueError for what makes other vectors.

    Args:
        source: folder or Hub name.
        paths: of its modules, inside it.
        label: first words of messages.
        read: keys that are used, or that change nothing.
        token: of the Hub.
    """
    found, values_of = partial(model_file, source, token=token), partial(values_in, source, token=token)

    def of_first(name: str) -> str:
        return PurePosixPath(paths[0], name).as_posix()

    own = [name for name in map(of_first, TRANSFORMER_FILES) if found(name)][:1]
    names = [SETTINGS_FILE, *own, *(f"{path}/config.json" for path in paths[1:])]
    tables = [(name, values_of(name)) for name in names]
    modules = found(MODULES_FILE)
    tables += [(MODULES_FILE, module) for module in (read_json(modules, MODULES_FILE) if modules else [])]
    unused = []
    for file, values in tables:
        for name, value in values.items():
            if name in read or value in _USUAL.get(name, (None, False, "", [], {})):
                continue
            if name in _REFUSED:
                raise ValueError(
                    f"{label} has {name}={json.dumps(value)} in {file}, which a student couldn't repeat; name another "
                    "teacher"
                )
            unused.append(f"{name}={short_repr(value)} of {file}")
    # a head is no JSON, so the Hub isn't asked for it
    setfit = {"config_setfit.json": found("config_setfit.json"), "model_head.pkl": Path(source, "model_head.pkl")}
    unused += [f"SetFit's {name}" for name, file in setfit.items() if file and file.is_file()]
    chats = values_of(of_first(TOKENIZER_CONFIG_FILE)).get("chat_template") or found(of_first(CHAT_TEMPLATE_FILE))
    unused += ["the tokenizer's chat_template"] * bool(chats)
    if unused:
        logger.warning("%s: not used, and left out of the student: %s", label, "; ".join(unused))


def values_in(source: str, name: str, **how: Any) -> dict[str, Any]:
    """Content of a JSON file of a folder or Hub name; empty where there is none."""
    return read_json_object(file, str(file)) if (file := model_file(source, name, **how)) else {}


def student_modules(file: Path, label: str) -> list[tuple[str, str]]:
    """Read `modules.json`, the kind and the folder of each module; a ValueError for those that no student can have."""
    modules = read_modules(file)
    kinds = [kind_of(module_type) for module_type, _ in modules]
    # as many Dense as there are, Normalize only if it is last: what is compared is the order
    dense, last = ["Dense"] * kinds.count("Dense"), ["Normalize"] * (kinds[-1:] == ["Normalize"])
    if kinds != ["Transformer", "Pooling", *dense, *last]:
        raise ValueError(
            f"{label} has the modules {first_of(kinds)}; expected Transformer, Pooling, any number of Dense, and "
            "Normalize or not, all of sentence-transformers: name another teacher (a sparse encoder is distilled by "
            "method=sparse, a multi-vector encoder by method=multi_vector; sentence-transformers evaluates and runs "
            "both)"
        )
    return [(kind, path) for kind, (_, path) in zip(kinds, modules, strict=True)]


def kind_of(module_type: str) -> str:
    """The short name of a module of the library; code of the model's own keeps its whole name."""
    return module_type.rpartition(".")[2] if module_type.startswith(_LIBRARY) else module_type


def read_modules(file: Path) -> list[tuple[str, str]]:
    """Read `modules.json`: the type of each module, and its folder below that of the model."""
    modules = read_json(file, str(file))
    if not fits(modules, [{"type": str, "path": str}]):
        raise ValueError(f"{file} is {short_repr(modules)}; expected a list of modules, each with type and path")
    for module in modules:
        if Path(module["path"]).is_absolute() or ".." in Path(module["path"]).parts:
            raise ValueError(f"{file} has path={short_repr(module['path'])}; expected a folder beside it")
    return [(module["type"], module["path"]) for module in modules]


def encoder_config(folder: Path, label: str, *, argument: str = "teacher") -> PreTrainedConfig:
    """Read and check the configuration of an encoder without a head, by a ValueError that begins with `label`."""
    values = config_values(folder, label)
    model_type = values.get("model_type")
    if model_type == BITS_TYPE:
        from ..models.packed import packed_config

        return packed_config(folder, label)
    if not isinstance(model_type, str) or model_type not in ARCHITECTURES:
        raise ValueError(
            f"{label} has model_type={short_repr(model_type)}; expected one of {', '.join(ARCHITECTURES)}"
        )
    config = checked_config(values, config_class(model_type), label)
    refuse_config(config, argument)
    return config


def check_values(values: Mapping[str, Any], known: Checks, label: str) -> None:
    """Refuse, by a ValueError, values that settings can't have."""
    for name, (is_right, words) in known.items():
        if values.get(name) is not None and not is_right(values[name]):
            raise ValueError(f"{label} has {name}={short_repr(values[name])}; expected {words}")


def settings_in(
    folder: Path, encoder_folder: Path, encoder: Any, tokenizer: Any, *, similarities: Sequence[str] = SIMILARITIES
) -> dict[str, Any]:
    """Fields of [`PoolingSettings`] that files beside the modules have."""
    known = {**_SETTINGS, "similarity_fn_name": _one_of(similarities)}

    def read(file: Path) -> dict[str, Any]:
        values = read_json_object(file, str(file)) if file.is_file() else {}
        check_values(values, known, str(file))
        return values

    files = [encoder_folder / name for name in TRANSFORMER_FILES]
    file = next((file for file in files if file.is_file()), files[0])
    own, shared = read(file), read(folder / SETTINGS_FILE)
    longest = own.get("max_seq_length") or tokenizer.model_max_length
    return {
        # a tokenizer without a limit names a huge number: then the encoder's positions are the limit
        "max_seq_length": int(min(longest, max_tokens(encoder.config))),
        "lowers": bool(own.get("do_lower_case")),
        "prompts": {str(name): text or "" for name, text in (shared.get("prompts") or {}).items()},
        "default_prompt_name": shared.get("default_prompt_name"),
        "similarity": shared.get("similarity_fn_name"),
        "truncate_dim": shared.get("truncate_dim"),
    }


def read_dense(folder: Path, label: str) -> Dense:
    """Read a layer of a folder, by a ValueError that begins with `label`."""
    values = read_json_object(folder / "config.json", str(folder / "config.json"))
    activation = str(values.get("activation_function", "Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise ValueError(
            f"{label} has activation_function={short_repr(values['activation_function'])} in {folder.name}; expected "
            f"one of {', '.join(ACTIVATIONS)}"
        )
    pickled = folder / _PICKLED_FILE
    if (folder / WEIGHTS_FILE).is_file() or not pickled.is_file():
        tensors = load_tensors(folder / WEIGHTS_FILE)
    else:
        try:
            found = torch.load(pickled, map_location="cpu", weights_only=True)  # runs no code of the pickle
            tensors = {name: tensor.float() for name, tensor in found.items()}
        except Exception as error:  # pickle raises errors of many kinds, and may hold anything
            raise ValueError(
                f"file={str(pickled)!r} is cut off or no pickle of tensors alone ({first_line(error)}); copy it again"
            ) from error
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    sizes = shapes.get("linear.weight", ())
    # a matrix, and maybe a bias as long as its outputs; nothing else may be there
    if len(sizes) != 2 or not shapes.items() <= {"linear.weight": sizes, "linear.bias": sizes[:1]}.items():
        raise ValueError(
            f"{label} has tensors of the shapes {short_repr(shapes)} in {folder.name}; expected linear.weight "
            "(outputs, inputs), and linear.bias (outputs) or not: copy it again"
        )
    weight = tensors["linear.weight"].float()
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias="linear.bias" in tensors)
    linear.load_state_dict({name.removeprefix("linear."): tensor.float() for name, tensor in tensors.items()})
    refuse_nonfinite(linear, label)
    return Dense(linear.requires_grad_(False), activation)
