"""What a chain of binarizations of an embedding model is made from: the model, texts, measures, the export.

`methods/binarization/stages.py` trains its stages.
"""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedModel

from ..data.blocks import drawn
from ..data.corpus import hold_out, load_text
from ..data.read_line import read_line
from ..embedding.folder import export_embedding_model, layers_behind
from ..embedding.metrics import agreement, compared
from ..embedding.model import EmbeddingModel, load_embedding_model
from ..embedding.texts import some_paragraphs, tokenize_texts
from ..embedding.trainer import NUM_FIT_TEXTS, pooled_by, refitted
from ..evaluation.fine_tuning import training_rows
from ..export.facts import CARD_SECTION, NAMESAKE, MethodCard
from ..files.messages import short_repr
from ..methods.binarization.binarizing import to_binary, to_packed
from ..methods.binarization.folder import AS_IN
from ..methods.binarization.stages import BinarizationSettings, ChainInputs
from ..models.heads import PREDICTION_BATCH_SIZE, collator_of, fastest_device
from ..models.tokenizers import fitted_length
from .settings import Log

MOST_TEXTS = 1000
"""Held-out texts whose vectors are compared, as many as `homodistil evaluate --task embedding` takes."""


def embedding_inputs(settings: BinarizationSettings, log: Log, *, folder: str) -> ChainInputs:
    """Read an embedding model, and texts.

    In training the layers behind its pooling are the float model's. After each stage a map in front of them is fitted.

    Raises:
        ValueError: no such model, or texts that can't be read.
    """
    column = _text_column(settings)
    model = load_embedding_model(folder, argument="model")
    to_binary(model.encoder, activation_bits=settings.stages[0])  # what can't be binarized is refused here
    how: dict[str, Any] = {"default": settings.default_length, "allowed": model.settings.max_seq_length}
    length = fitted_length(settings.max_length, model.encoder.config, argument="max_length", **how)
    settings = replace(settings, max_length=length)
    how = {"text_column": column, "line_by_line": True}
    train = load_text([settings.train_data], **how)
    if settings.eval_data:
        held_out = load_text([settings.eval_data], **how, split="validation", argument="eval_data")
    else:
        train, held_out, words = hold_out(train)
        log(f"eval_data is not set: {words} of train_data are held out")
    texts, rows_of = some_paragraphs(held_out, MOST_TEXTS), model.rows_of(length)
    if len(texts) < 2:
        name = "eval_data" if settings.eval_data else "train_data"
        raise ValueError(
            f"{name}={getattr(settings, name)!r} has {len(texts)} text to compare vectors of; name two or more"
        )
    rows = tokenize_texts(train, model.tokenizer, max_length=length, rows_of=rows_of, argument="train_data")
    rows = training_rows(rows, settings.max_train_samples)
    rows = rows.add_column("length", list(map(len, rows["input_ids"])))
    parts = {"to train on": rows, "held-out texts": texts}
    log(read_line(parts, train.info.description, tokenizer=model.tokenizer))
    device, collate = fastest_device(), collator_of(model.tokenizer, model.encoder)

    def on_device(one: EmbeddingModel) -> EmbeddingModel:  # copies of layers, as those of exports are on the CPU
        layers = tuple(replace(layer, linear=copy.deepcopy(layer.linear).to(device)) for layer in one.dense)
        return replace(one, encoder=one.encoder.to(device), dense=layers)

    trained = on_device(model)
    taught = trained.encode(texts)

    def vectors_of(states_BTH: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        return compared(trained.vectors(states_BTH, mask_BT), model.similarity)

    @lru_cache(maxsize=1)
    def with_map(encoder: PreTrainedModel) -> EmbeddingModel:
        some = drawn(rows, NUM_FIT_TEXTS, seed=0)
        some = some.select(np.argsort(some["length"][:], kind="stable").tolist()).select_columns("input_ids")
        batches = DataLoader(some, batch_size=PREDICTION_BATCH_SIZE, collate_fn=collate)
        return replace(model, encoder=encoder, dense=layers_behind(fitted_map(encoder, trained, batches), model))

    def measure(encoder: PreTrainedModel) -> dict[str, float]:
        own = taught if encoder is model.encoder else on_device(with_map(encoder)).encode(texts)
        return agreement(own, taught, similarity=model.similarity)

    def export(last: PreTrainedModel, folder: Path, results: Mapping[str, Any], run: Mapping[str, Any]) -> Path:
        card = MethodCard(
            student="embedding model of bits",
            made="binarized beside {teacher}",
            how=f"Its encoder was binarized, {AS_IN}, beside the float one's vectors and states. Then a map from its "
            "pooled states to the float one's was fitted.",
            paper=f"This model was made by another method; {NAMESAKE}",
            tags=("binarization",),
        )
        facts = {**run, CARD_SECTION: asdict(card)}
        packed = replace(with_map(last), name="", encoder=to_packed(last.cpu()))
        return export_embedding_model(packed, folder, teacher=model, facts=facts, overwrite=True)

    return ChainInputs(settings, model.encoder, model.tokenizer, rows, measure, export, len(texts), vectors_of)


@torch.no_grad()
def fitted_map(encoder: PreTrainedModel, taught: EmbeddingModel, batches: Iterable[Mapping[str, Any]]) -> nn.Linear:
    """The linear map of least squares from an encoder's pooled states to those of `taught`; on the CPU."""
    size = encoder.config.hidden_size
    sums_HH, num_texts = torch.zeros(size, 2 * size, dtype=torch.float64), 0
    for batch in batches:
        inputs = {name: tensor.to(encoder.device) for name, tensor in batch.items()}
        own, aims = (pooled_by(one, inputs, taught).cpu().double() for one in (encoder, taught.encoder))
        sums_HH += own.T @ torch.cat([own, aims], 1)  # PᵀP and PᵀT
        num_texts += len(own)
    products, cross = sums_HH.split(size, 1)
    dense = nn.Linear(size, size, bias=False).requires_grad_(False)
    dense.weight.copy_(refitted(torch.eye(size, dtype=torch.float64), products, cross, num_texts))
    return dense


def _text_column(settings: BinarizationSettings) -> str | None:
    if settings.label_column is not None:
        raise ValueError(
            f"label_column={short_repr(settings.label_column)} has no place with an embedding model, whose texts need "
            "no labels; leave it out"
        )
    if len(settings.text_columns) > 1:
        raise ValueError(
            f"text_columns={short_repr(settings.text_columns)}: an embedding model reads one column; name one"
        )
    return settings.text_columns[0] if settings.text_columns else None
