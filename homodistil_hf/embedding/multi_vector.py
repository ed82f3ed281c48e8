"""Multi-vector encoders (ColBERT, late interaction): encoders whose tokens have a vector each, some of them or all.

A query and a document are as alike as MaxSim says: each of the query's vectors with the most similar one of the
document, added up (arXiv 2004.12832). So a student's token vectors in its teacher's space can be looked up in the
teacher's index. Folders are those of sentence-transformers, which is not imported; `multi_vector_trainer.py` trains.

Shapes: B texts, T tokens, H hidden channels, D channels of a vector, M tokens that have a vector.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from transformers import PreTrainedTokenizerBase
from typing_extensions import override

from ..data.masking import IGNORED_LABEL
from ..distillation.losses import exact_dtype
from ..files.messages import first_of, short_repr
from ..files.model_files import model_file
from ..files.strict_json import fits, write_json
from ..models.architectures import max_tokens
from ..models.tokenizers import as_it_was, check_ids, rows_of_texts
from .folder import (
    MASK_TYPE,
    MODULE_TYPE,
    QUERY_KEYS,
    ROUTES,
    shared_file,
    write_dense,
    write_encoder,
    write_index,
)
from .metrics import MAXSIM, MAXSIMS
from .model import (
    COUNT,
    MODULES_FILE,
    SETTINGS_FILE,
    TRANSFORMER_FILES,
    VECTOR_KEYS,
    Checks,
    EmbeddingModel,
    PoolingSettings,
    check_values,
    kind_of,
    load_encoder_in,
    model_folder,
    name_unused,
    read_dense,
    read_modules,
    settings_in,
    values_in,
)
from .texts import RowsOf

QUERY, DOCUMENT = ROUTES
_TOKENS, _MASK = "token_embeddings", "MultiVectorMask"
_MASK_KEYS = ("skiplist_words", "skiplist_tasks")
_OLDER_KEYS = {"query_prefix", "document_prefix", "do_query_expansion", "attend_to_expansion_tokens", *_MASK_KEYS}
_OLDER_KEYS |= {"attend_to_mask_tokens", *QUERY_KEYS}
"""Settings of the whole model before sentence-transformers had the class; modules have them since."""


def _is_expansion(value: Any) -> bool:
    whole = {"attend": False, "token": None, **value} if isinstance(value, dict) else {}
    is_right = fits(whole, {"strategy": str, "attend": bool, "token": str | None, "length": int}) and len(whole) == 4
    return is_right and whole["strategy"] in ("fixed", "min") and whole["length"] > 0


_KNOWN: Checks = {
    "query_length": COUNT,
    "document_length": COUNT,
    "query_expansion": (_is_expansion, "strategy (fixed or min) and length, with attend and token or without"),
    "skiplist_words": (partial(fits, shape=[str]), "a list of words"),
    "skiplist_tasks": (
        lambda value: value in ROUTES or (fits(value, [str]) and set(value) <= {*ROUTES}),
        f"some of {', '.join(ROUTES)}",
    ),
    "keep_only_token_ids": (lambda value: not value, "none, as they are those of images: name another teacher"),
}
_KEYS = {*VECTOR_KEYS, *_KNOWN, "module_input_name", "module_output_name"}


@dataclass(frozen=True)
class Reading:
    """How queries and documents become tokens, and which of these have a vector; holds no weights.

    Args:
        tokenizer: of the encoder.
        settings: prompts of both, and lower case.
        lengths: route, `query` or `document` → tokens at most.
        expansion: what queries are filled up with, up to `length` tokens of the id `token`; None: nothing.
        skipped: token ids without a vector, in texts of the routes `skiplist_tasks`.
        skiplist_tasks: these routes.
        files: the settings as folders hold them, those of the encoder and of the mask.
    """

    tokenizer: PreTrainedTokenizerBase
    settings: PoolingSettings
    lengths: Mapping[str, int]
    expansion: Mapping[str, Any] | None
    skipped: frozenset[int]
    skiplist_tasks: tuple[str, ...]
    files: Mapping[str, Any]

    @property
    def is_alike(self) -> bool:
        """Whether queries are read as documents are."""
        prompts = {self.settings.prompts.get(route, "") for route in ROUTES}
        skips = {bool(self.skipped) and route in self.skiplist_tasks for route in ROUTES}
        return self.expansion is None and len(prompts) == len(skips) == len(set(self.lengths.values())) == 1

    def row(self, ids: list[int], route: str = DOCUMENT) -> dict[str, list[int]]:
        """Tokens of a text → a row: `labels` are -100 where a token has no vector."""
        fill = self.expansion if route == QUERY else None
        num_added = max(0, fill["length"] - len(ids)) if fill else 0
        mask = [1] * len(ids) + [int(bool(fill and fill["attend"]))] * num_added
        ids = ids + [fill["token"]] * num_added if fill else ids
        skipped = self.skipped if route in self.skiplist_tasks else ()
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": [IGNORED_LABEL if token in skipped else 0 for token in ids],
        }

    def rows(self, texts: list[str], *, max_length: int, route: str | None = None) -> dict[str, list[list[int]]]:
        """Columns of rows to train on, each text read by a route; None: half of them as queries, if these differ."""
        route, rows = route or (DOCUMENT if self.is_alike else None), []
        # by the text alone, so that it is the same for any number of processes
        routes = [route or ROUTES[zlib.crc32(text.encode()) % 2] for text in texts]
        for one in ROUTES:
            own = [self.settings.prepared(text, one) for text, of in zip(texts, routes, strict=True) if of == one]
            ids = rows_of_texts(self.tokenizer, own, min(max_length, self.lengths[one]))["input_ids"] if own else []
            rows += [self.row(tokens, one) for tokens in ids]
        return {name: [row[name] for row in rows] for name in ("input_ids", "attention_mask", "labels")}

    def padded(self, rows: Sequence[Mapping[str, Any]], multiple: int | None = None) -> Any:
        """Rows → a batch, `labels` with -100 at padding."""
        own = [{name: list(row[name]) for name in ("input_ids", "attention_mask")} for row in rows]
        inputs = self.tokenizer.pad(own, pad_to_multiple_of=multiple, return_tensors="pt")
        inputs["labels"] = torch.full_like(inputs["input_ids"], IGNORED_LABEL)
        for labels_T, row in zip(inputs["labels"], rows, strict=True):
            start = len(labels_T) - len(row["labels"]) if self.tokenizer.padding_side == "left" else 0
            labels_T[start : start + len(row["labels"])] = torch.tensor(row["labels"])
        return inputs


@dataclass(frozen=True, kw_only=True)
class MultiVectorModel(EmbeddingModel):
    """A multi-vector encoder with its tokenizer and settings; its layers stand on each token.

    Args:
        reading: how texts become tokens.
        route: of `ROUTES`, by which texts are encoded where none is named.
    """

    reading: Reading
    route: str = DOCUMENT
    kind: ClassVar[str] = "a multi-vector encoder"

    @property
    @override
    def prompts(self) -> dict[str, str]:
        return {route: self.settings.prompts.get(route, "") for route in ROUTES}

    @property
    @override
    def similarity(self) -> str:
        return self.settings.similarity or MAXSIM

    @override
    def encode(self, texts: Iterable[str], *, batch_size: int = 32, prompt_name: str | None = None) -> torch.Tensor:
        """Refused, by a ValueError: texts have different numbers of vectors; [`encode_each`] gives those of each."""
        raise ValueError("a multi-vector encoder has no one vector of a text; use encode_each(texts)")

    @override
    def pool(self, states_BTH: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The states of tokens that have a vector, `(M, H)`, in their order."""
        places_M = inputs.get("masked_positions")
        if places_M is None:
            places_M = (inputs["labels"].flatten() != IGNORED_LABEL).nonzero().squeeze(1)
        return states_BTH.flatten(0, 1).index_select(0, places_M).to(exact_dtype(states_BTH))

    @override
    def rows_of(self, max_length: int, prompt_name: str | None = None) -> RowsOf:
        return partial(self.reading.rows, max_length=max_length, route=prompt_name or None)

    @override
    def tokenize(self, texts: list[str], prompt_name: str | None = None) -> Any:
        route = prompt_name or self.route
        prepared = [self.settings.prepared(text, route) for text in texts]
        with as_it_was(self.tokenizer):
            rows = self.tokenizer(prepared, truncation=True, max_length=self.reading.lengths[route])["input_ids"]
        inputs = self.reading.padded([self.reading.row(ids, route) for ids in rows])
        ids_BT = inputs["input_ids"]
        check_ids(self.name or "a text", int(ids_BT.min()), int(ids_BT.max()), self.encoder.config.vocab_size)
        return inputs

    @override
    def of_inputs(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The vectors of all texts, `(M, D)`."""
        outputs = self.encoder(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        return self.behind(self.pool(outputs.last_hidden_state, inputs))

    @override
    def each_of(self, vectors: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> Sequence[torch.Tensor]:
        return vectors.split(num_vectors(inputs["labels"]))


def num_vectors(labels_BT: torch.Tensor) -> list[int]:
    """Vectors of each text."""
    counts: list[int] = (labels_BT != IGNORED_LABEL).sum(1).tolist()
    return counts


# Reading


def load_multi_vector_model(
    name_or_path: str | Path, *, argument: str = "teacher", token: str | None = None
) -> MultiVectorModel:
    """Load a multi-vector encoder; arguments and errors as [`load_embedding_model`]."""
    label = f"{argument}={str(name_or_path)!r}"
    folder = model_folder(name_or_path, label, token=token)
    modules, found = token_modules(str(folder), label)
    first = folder / modules[0][1]
    encoder, tokenizer = load_encoder_in(first, label, argument=argument)
    shared = settings_in(folder, first, encoder, tokenizer, similarities=MAXSIMS) | {"truncate_dim": None}
    settings = PoolingSettings("tokens", modules[-1][0] == "Normalize", **shared)
    dense = tuple(read_dense(folder / path, label) for kind, path in modules if kind == "Dense")
    reading = _reading(tokenizer, settings, found, label, most=max_tokens(encoder.config))
    return MultiVectorModel(encoder, tokenizer, settings, dense, name=str(name_or_path), reading=reading)


def token_modules(source: str, label: str) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Kind and folder of each module of a folder or Hub name, the mask's left out, and the settings of a [`Reading`].

    Raises:
        ValueError: modules or settings that a student couldn't repeat; its message begins with `label`.
    """
    found, values_of = partial(model_file, source), partial(values_in, source)
    modules = [(kind_of(type), path) for type, path in read_modules(found(MODULES_FILE) or Path(source, MODULES_FILE))]
    others = [(kind, path) for kind, path in modules if kind != _MASK]
    kinds = [kind for kind, _ in others]
    dense, last = ["Dense"] * kinds.count("Dense"), ["Normalize"] * (kinds[-1:] == ["Normalize"])
    older = sorted(_OLDER_KEYS & values_of(SETTINGS_FILE).keys())
    if kinds != ["Transformer", *dense, *last] or len(modules) != len(others) + 1 or older:
        raise ValueError(
            f"{label} has the modules {first_of([kind for kind, _ in modules])}"
            f"{f' and {first_of(older)} in {SETTINGS_FILE}' if older else ''}; expected Transformer, any number of "
            f"Dense, {_MASK}, and Normalize or not, all of sentence-transformers: name another teacher, or write an "
            "older ColBERT anew by MultiVectorEncoder(…).save_pretrained(…)"
        )
    for kind, path in others[1:]:
        values = values_of(f"{path}/config.json")
        read = values.get("module_input_name", _TOKENS if kind == "Dense" else "sentence_embedding")
        if {read, values.get("module_output_name") or read} != {_TOKENS}:
            raise ValueError(f"{label} has module_input_name={short_repr(read)} in {path}; expected {_TOKENS!r}")
    (mask,) = [path for kind, path in modules if kind == _MASK]
    first = [Path(others[0][1], name).as_posix() for name in TRANSFORMER_FILES]
    own = next((name for name in first if found(name)), first[0])
    settings = values_of(own) | values_of(f"{mask}/config.json")
    check_values(settings, _KNOWN, label)
    name_unused(source, [path for _, path in modules], label, read=_KEYS)
    return others, {name: settings[name] for name in _KNOWN if settings.get(name)}


def _reading(
    tokenizer: PreTrainedTokenizerBase, settings: PoolingSettings, found: dict[str, Any], label: str, *, most: int
) -> Reading:
    fill, longest = found.get("query_expansion"), settings.max_seq_length
    lengths = {route: found.get(f"{route}_length", longest) for route in ROUTES}
    if fill is not None:
        if tokenizer.padding_side == "left":
            raise ValueError(f"{label} has query_expansion, but its tokenizer pads on the left; set padding_side")
        # as the library: `fixed` cuts queries there, too, `min` never cuts below
        lengths[QUERY] = fill["length"] if fill["strategy"] == "fixed" else max(lengths[QUERY], fill["length"])
        token = tokenizer.mask_token_id if tokenizer.mask_token_id is not None else tokenizer.eos_token_id
        if fill.get("token") is not None:
            token = tokenizer.get_vocab().get(fill["token"])
        if token is None or fill["length"] > most:
            raise ValueError(
                f"{label} has query_expansion={short_repr(fill)}; expected a token of its vocabulary, by default that "
                f"of masked words, and at most {most} tokens"
            )
        fill = {"attend": False, **fill, "token": token}
    words, tasks = found.get("skiplist_words", []), found.get("skiplist_tasks", [DOCUMENT])
    # words that the vocabulary lacks are none of the text's either
    words = [word for word in words if word in tokenizer.get_vocab()]
    return Reading(
        tokenizer,
        settings,
        {route: min(length, most) for route, length in lengths.items()},
        fill,
        frozenset(tokenizer.convert_tokens_to_ids(words)),
        (tasks,) if isinstance(tasks, str) else tuple(tasks),
        found,
    )


# Writing


def write_multi_vector(model: MultiVectorModel, folder: Path) -> None:
    """Write all files of sentence-transformers to an empty folder."""
    files = model.reading.files
    write_encoder(model, folder, **{name: files[name] for name in QUERY_KEYS if name in files})
    modules = {"": MODULE_TYPE.format("Transformer")}
    kinds = [*["Dense"] * len(model.dense), _MASK, *["Normalize"] * model.settings.normalizes]
    for index, kind in enumerate(kinds):
        path = f"{index + 1}_{kind}"
        modules[path] = MASK_TYPE if kind == _MASK else MODULE_TYPE.format(kind)
        (folder / path).mkdir()
        if kind == "Dense":
            write_dense(model.dense[index], folder / path, module_input_name=_TOKENS)
        else:
            mask = {name: files[name] for name in _MASK_KEYS if name in files}
            values: dict[str, Any] = mask if kind == _MASK else {"module_input_name": _TOKENS}
            write_json(folder / path / "config.json", values)
    write_index(modules, folder)
    write_json(folder / SETTINGS_FILE, {"model_type": "MultiVectorEncoder"} | shared_file(model))
