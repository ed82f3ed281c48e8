"""Sparse encoders (SPLADE): masked-LM models whose logits, pooled over the tokens of a text, are its vector of words.

z_v = log(1 + relu(x_v)) with the largest logit x_v = max_t x_tv of a word v (arXiv 2109.10086, eq. 6). The space is
the vocabulary, so a student of the same words stays in its teacher's inverted index, and needs no map into it. Of a
Router whose queries are looked up in a table (inference-free SPLADE), documents have the model. Folders are those of
sentence-transformers, which is not imported; `sparse_trainer.py` trains.

Shapes: B texts, T tokens, N = B·T, H hidden channels, V words, P words of a piece.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import AutoModelForMaskedLM, PreTrainedConfig, PreTrainedModel
from typing_extensions import override

from ..distillation.losses import exact_dtype
from ..distillation.vocabulary_loss import LOGITS_BYTES, decoder_of
from ..files.inside import stays_inside
from ..files.messages import short_repr
from ..files.model_files import model_file
from ..files.strict_json import fits, read_json_object, write_json
from ..files.tensors import WEIGHTS_FILE, load_tensors
from ..models.architectures import architecture_of
from ..models.conversion import to_stock, to_student
from .folder import (
    MODULE_TYPE,
    ROUTER_FILE,
    SPARSE_TYPE,
    TABLE_KEYS,
    shared_file,
    write_encoder,
    write_index,
)
from .model import (
    MODULES_FILE,
    SETTINGS_FILE,
    VECTOR_KEYS,
    EmbeddingModel,
    PoolingSettings,
    encoder_config,
    kind_of,
    load_encoder_in,
    model_folder,
    name_unused,
    read_modules,
    settings_in,
)

ACTIVATIONS = {"relu": 1, "log1p_relu": 2}
"""Name → how often log(1 + x) is taken of relu(x); twice in arXiv 2504.14839."""
_POOLING_KEYS = {"pooling_strategy": ("max",), "activation_function": tuple(ACTIVATIONS)}
_KINDS = (["MLMTransformer", "SpladePooling"], ["Transformer", "SpladePooling"])
_TABLE = "SparseStaticEmbedding"
_KEYS = {*VECTOR_KEYS, *_POOLING_KEYS, "transformer_task", "chunk_size"}
_FILES = (".json", ".safetensors", ".txt", ".model")


def pooled_words(
    decoder: Any,
    states_BTH: torch.Tensor,
    mask_BT: torch.Tensor | None,
    *,
    activation: str = "relu",
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The vectors of texts, `(B, V)`, at least float32, without ever holding all logits.

    Args:
        decoder: the layer of a masked-LM head that makes logits.
        states_BTH: its inputs.
        mask_BT: 1 = token, 0 = padding, which counts nothing, a token a text at least; None: no padding.
        activation: of `ACTIVATIONS`.
        dtype: type of the matrix product; default: as [`decoder_of`] has it.

    Example:
    ```python
    >>> layer, states = torch.nn.Linear(2, 2, bias=False), torch.tensor([[[1.0, -1.0], [3.0, -2.0]]])
    >>> layer.weight = torch.nn.Parameter(torch.eye(2))
    >>> pooled_words(layer, states, None).exp().tolist()
    [[4.0, 1.0]]

    ```
    """
    states_BTH, weight_VH, bias_V, dtype = decoder_of(decoder, states_BTH, dtype=dtype)
    if mask_BT is not None:
        # a text's first token in the place of padding changes no maximum, and masks far less than all logits
        first_B11 = mask_BT.argmax(1)[:, None, None]
        of_first_B1H = states_BTH.gather(1, first_B11.expand(-1, 1, states_BTH.shape[-1]))
        states_BTH = torch.where(mask_BT[..., None] != 0, states_BTH, of_first_B1H)
    with torch.autocast(states_BTH.device.type, enabled=False):
        # the activation rises, so the largest logit becomes the largest value
        largest_BV: Any = _LargestLogits.apply(states_BTH, weight_VH, dtype)
        values_BV = F.relu(largest_BV if bias_V is None else largest_BV + bias_V)
        for _ in range(ACTIVATIONS[activation]):
            values_BV = values_BV.log1p()
        return values_BV


class _LargestLogits(torch.autograd.Function):
    """max_t x_t·w_v, at least float32, from states, weight and the type of the product.

    A word has a gradient at one token alone, and none where its activation is 0, so products are of a sparse matrix.
    """

    @staticmethod
    def forward(ctx: Any, states_BTH: torch.Tensor, weight_VH: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        lowered_BTH = states_BTH.to(dtype)
        size = max(1, LOGITS_BYTES // (lowered_BTH[..., 0].numel() * dtype.itemsize))
        pieces = [(lowered_BTH @ weight_PH.to(dtype).t()).max(1) for weight_PH in weight_VH.split(size)]
        ctx.save_for_backward(states_BTH, weight_VH, torch.cat([piece.indices for piece in pieces], 1))
        return torch.cat([piece.values for piece in pieces], 1).to(exact_dtype(states_BTH))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient_BV: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None, None]:
        states_BTH, weight_VH, tokens_BV = ctx.saved_tensors
        states_NH, exact = states_BTH.flatten(0, 1), gradient_BV.dtype
        texts, words = gradient_BV.nonzero(as_tuple=True)
        places = torch.stack([texts * states_BTH.shape[1] + tokens_BV[texts, words], words])
        size = len(states_NH), len(weight_VH)
        gradient_NV = torch.sparse_coo_tensor(places, gradient_BV[texts, words], size, check_invariants=False)
        of_states, of_weight = ctx.needs_input_grad[:2]
        return (
            (gradient_NV @ weight_VH.to(exact)).to(states_NH.dtype).view_as(states_BTH) if of_states else None,
            (gradient_NV.t() @ states_NH.to(exact)).to(weight_VH.dtype) if of_weight else None,
            None,
        )


@dataclass(frozen=True)
class SparseModel(EmbeddingModel):
    """A sparse encoder with its tokenizer and settings; the encoder is of a student's class, with its masked-LM head.

    Args:
        activation: of `ACTIVATIONS`.
        router: content of the file of a Router whose documents have this model; None: queries have it, too.
        table: folder of the Router's table of queries.
    """

    activation: str = "relu"
    router: Mapping[str, Any] | None = None
    table: Path | None = None
    kind: ClassVar[str] = "a sparse encoder"

    @property
    @override
    def dimension(self) -> int:
        words: int = self.encoder.config.vocab_size
        return words

    @property
    @override
    def stock_encoder(self) -> PreTrainedModel:
        return to_stock(self.encoder)

    @property
    @override
    def similarity(self) -> str:
        return self.settings.similarity or "dot"

    @override
    def of_inputs(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        outputs = self.encoder(**inputs, **all_positions(inputs["input_ids"]))
        return self.words(self.encoder, outputs, inputs)

    def words(
        self,
        model: Any,
        outputs: Mapping[str, torch.Tensor],
        inputs: Mapping[str, torch.Tensor],
        dtype: torch.dtype | None = None,
    ) -> torch.Tensor:
        """The vectors, `(B, V)`, of outputs at [`all_positions`] by `model`, the encoder or a student of it."""
        states_BTH = outputs["decoder_inputs"].view(*inputs["input_ids"].shape, -1)
        mask_BT = inputs.get("attention_mask")
        return pooled_words(model.decoder_layer, states_BTH, mask_BT, activation=self.activation, dtype=dtype)


def all_positions(tokens_BT: torch.Tensor) -> dict[str, Any]:
    """Arguments of a student's forward that stop it before its decoder, at every token."""
    return {"masked_positions": torch.arange(tokens_BT.numel(), device=tokens_BT.device), "skip_decoder": True}


# Reading


def load_sparse_model(name_or_path: str | Path, *, argument: str = "teacher", token: str | None = None) -> SparseModel:
    """Load a sparse encoder; arguments and errors as [`load_embedding_model`]."""
    label = f"{argument}={str(name_or_path)!r}"
    folder = model_folder(name_or_path, label, token=token)
    (first, second), router = document_modules(str(folder), label)
    masked_lm_config(folder / first, label, argument=argument)
    encoder, tokenizer = load_encoder_in(folder / first, label, argument=argument, auto_class=AutoModelForMaskedLM)
    values = read_json_object(folder / second / "config.json", str(folder / second / "config.json"))
    found = [values.get(name, known[0]) for name, known in _POOLING_KEYS.items()]
    for name, value in zip(_POOLING_KEYS, found, strict=True):
        if value not in (known := _POOLING_KEYS[name]):
            raise ValueError(f"{label} has {name}={short_repr(value)} in {second}; expected {' or '.join(known)}")
    name_unused(str(folder), [first, second], label, read=_KEYS)
    shared = settings_in(folder, folder / first, encoder, tokenizer) | {"truncate_dim": None}
    return SparseModel(
        to_student(encoder, argument=argument),
        tokenizer,
        PoolingSettings(found[0], normalizes=False, **shared),
        name=str(name_or_path),
        activation=found[1],
        router=router,
        table=None if router is None else _checked_table(folder / router["structure"]["query"][0], encoder, label),
    )


def document_modules(source: str, label: str) -> tuple[list[str], dict[str, Any] | None]:
    """Find the folders of a masked-LM model and its pooling; also the content of a Router's file, or None.

    `source` is a folder or Hub name, and `label` begins the message of a ValueError.
    """

    def found(name: str) -> Path:
        return model_file(source, name) or Path(source, name)

    modules = read_modules(found(MODULES_FILE))
    types, router = {path: kind for kind, path in modules}, None
    content: dict[str, Any] = {"types": types, "structure": {"document": list(types)}, "parameters": {}}
    if list(map(kind_of, types.values())) == ["Router"]:
        router = content = read_json_object(found(ROUTER_FILE), f"{label}: {ROUTER_FILE}")
    # with a Router, queries are looked up, and nothing but the task decides on the route
    if fits(content, {"types": {...: str}, "structure": {...: [str]}, "parameters": dict}):
        types, routes, table = content["types"], content["structure"], {} if router is None else {"query": [_TABLE]}
        kinds = {route: [kind_of(types.get(path, "")) for path in paths] for route, paths in routes.items()}
        is_known = kinds in [{"document": kind} | table for kind in _KINDS]
        is_inside = all(path == "" or stays_inside(path) for path in types)
        if is_known and is_inside and not content["parameters"].get("route_mappings"):
            return routes["document"], router
    raise ValueError(
        f"{label} has the modules {short_repr(content)}; expected {' and '.join(_KINDS[1])}, alone, or of a Router's "
        f"documents without a mapping, whose queries have {_TABLE}: name another teacher"
    )


def masked_lm_config(folder: Path, label: str, *, argument: str = "teacher") -> PreTrainedConfig:
    """Read the configuration of a masked-LM model, which it names as its class, whatever its file does."""
    config = encoder_config(folder, label, argument=argument)
    architecture = architecture_of(config)
    if architecture.masked_lm is None:
        raise ValueError(f"{label} is a {architecture.model_type}, which has no masked-LM head; name another teacher")
    config.architectures = [architecture.heads[0].stock_name]
    return config


def _checked_table(folder: Path, encoder: PreTrainedModel, label: str) -> Path:
    """The folder of a table of queries, by a ValueError where an export couldn't have it as it is."""
    weight = load_tensors(folder / WEIGHTS_FILE).get("weight", torch.empty(0))
    settings = read_json_object(folder / "config.json", str(folder / "config.json"))
    if weight.shape != (words := encoder.config.vocab_size,) or settings.keys() - TABLE_KEYS:
        raise ValueError(
            f"{label} has a table of queries of the shape {tuple(weight.shape)} with {short_repr(settings)}; expected "
            f"a weight a word, {words:,}, in {WEIGHTS_FILE}, and no setting but {', '.join(TABLE_KEYS)}"
        )
    return folder


# Writing


def write_sparse(model: Any, folder: Path) -> None:
    """Write all files of sentence-transformers to an empty folder; the table of a Router's queries stays as it is."""
    paths = ["", "1_SpladePooling"] if model.router is None else model.router["structure"]["document"]
    modules = dict(zip(paths, map(SPARSE_TYPE.format, _KINDS[0]), strict=True))
    for path in paths:
        (folder / path).mkdir(parents=True, exist_ok=True)
    write_encoder(model, folder / paths[0])
    pooling = dict(zip(_POOLING_KEYS, (model.settings.pooling, model.activation), strict=True))
    write_json(folder / paths[1] / "config.json", pooling | {"word_embedding_dimension": model.dimension})
    if model.router is not None:
        (queries,) = model.router["structure"]["query"]
        (folder / queries).mkdir(parents=True, exist_ok=True)
        for file in model.table.iterdir():
            if file.suffix in _FILES:
                shutil.copy(file, folder / queries)
        types, parameters = modules | {queries: SPARSE_TYPE.format(_TABLE)}, dict(model.router["parameters"])
        parameters.pop("route_mappings", None)  # an empty one, which older versions don't know
        write_json(folder / ROUTER_FILE, {**model.router, "types": types, "parameters": parameters})
        modules = {"": MODULE_TYPE.format("Router")}
    write_index(modules, folder)
    write_json(folder / SETTINGS_FILE, {"model_type": "SparseEncoder"} | shared_file(model))
