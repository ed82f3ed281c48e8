"""Stock models with fresh heads around an encoder, and their float32 predictions."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .architectures import HEADS, architecture_of
from .architectures.architecture import SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, HeadKind
from .tokenizers import padding_multiple

HEAD_DROPOUT = 0.1
"""Of models with a fresh head, where no other is given."""
PREDICTION_BATCH_SIZE = 64
_POOLER = "pooler."


def fastest_device() -> torch.device:
    """The machine's accelerator, or its CPU where it has none."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def with_fresh_head(
    encoder: PreTrainedModel, num_labels: int, kind: HeadKind = SEQUENCE_CLASSIFICATION, *, dropout: float, seed: int
) -> PreTrainedModel:
    """A stock model around a copy of an encoder, with a fresh head in place of the model's own pooler and head.

    Args:
        encoder: of a stock class or a student's.
        num_labels: classes; of sequence classification 1 for a regression; 2 of answers, their starts and ends.
        kind: of the head.
        dropout: of hidden states, attention probabilities and the head's input, in [0, 1).
        seed: of the head's layers, drawn from N(0, `initializer_range`²), biases 0.

    Raises:
        ValueError: transformers has no such head for the encoder.
    """
    architecture = architecture_of(encoder.config)
    if kind not in (known := [head.kind for head in architecture.heads]):
        raise ValueError(
            f"encoder={type(encoder).__name__} can't become a {kind.title}: transformers has no "
            f"{kind.auto_class} of a {architecture.model_type}; it has those of a {', '.join(k.title for k in known)}"
        )
    config = copy.deepcopy(encoder.config)
    # the former head's activation; of a value behind none, sentence-transformers would take a sigmoid for the default
    if vars(config).pop("sentence_transformers", None) and kind is SEQUENCE_CLASSIFICATION and num_labels == 1:
        config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity"}
    dropouts = architecture.dropouts
    changes: dict[str, Any] = {**dict.fromkeys(dropouts, dropout), "num_labels": num_labels}
    if kind is SEQUENCE_CLASSIFICATION:
        changes["problem_type"] = "regression" if num_labels == 1 else "single_label_classification"
        if "classifier_dropout" not in dropouts:
            changes["classifier_dropout"] = None  # then it is the dropout of hidden states
    for name, value in changes.items():
        setattr(config, name, value)
    # on a CPU torch's fused attention is slow with bfloat16 or dropout
    attention = "eager" if fastest_device().type == "cpu" else None
    model: PreTrainedModel = getattr(transformers, kind.auto_class).from_config(config, attn_implementation=attention)
    state = {name: tensor for name, tensor in encoder.state_dict().items() if not name.startswith(_POOLER)}
    fresh = {name: tensor for name, tensor in model.base_model.state_dict().items() if name.startswith(_POOLER)}
    model.base_model.load_state_dict(state | fresh)
    generator = torch.Generator().manual_seed(seed)
    for layer in head_linears(model):
        nn.init.normal_(layer.weight, std=model.config.initializer_range, generator=generator)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return model


def head_linears(model: PreTrainedModel) -> list[nn.Linear]:
    """The linear layers of a model's head: a pooler's first, the logits' last."""
    encoder = f"{model.base_model_prefix}."
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and (not name.startswith(encoder) or name.startswith(f"{encoder}{_POOLER}"))
    ]


def start_at_mean(classifier: PreTrainedModel, labels: Sequence[float]) -> None:
    """Let a regression begin with the mean label as its answer, instead of 0.

    An output bias moves by about a learning rate a step. Before the answers are right on average, the error hardly
    depends on the row; a short fine-tuning of a narrow model may never get beyond that. A head without biases, as
    transformers gives decoders, begins with 0.
    """
    bias = head_linears(classifier)[-1].bias
    if bias is not None:
        bias.data.fill_(float(np.mean(labels)))


@torch.inference_mode()
def forward(model: PreTrainedModel, rows: Any, tokenizer: PreTrainedTokenizerBase) -> Iterator[Any]:
    """Run a model over tokenized rows without labels, in float32 and evaluation mode; its outputs, batch by batch.

    Batches are fastest where rows of like length follow each other.
    """
    model.eval()
    collate = collator_of(tokenizer, model)
    for batch in DataLoader(rows, batch_size=PREDICTION_BATCH_SIZE, collate_fn=collate):
        # Call the class's `forward`: accelerate has wrapped the instance's in autocast, and predictions are float32.
        with torch.autocast(model.device.type, enabled=False):
            yield type(model).forward(model, **batch.to(model.device))


def logits_of_rows(
    model: PreTrainedModel, rows: Any, tokenizer: PreTrainedTokenizerBase, *names: str
) -> list[tuple[torch.Tensor, ...]]:
    """Float32 logits of each tokenized row, padding included, on the host and in the order of the rows.

    Args:
        model: of any head.
        rows: a table, or a list of one dictionary a row, without labels; rows of like length share a batch.
        tokenizer: pads.
        names: of the model's outputs.

    Raises:
        FloatingPointError: logits are not finite.
    """
    ids = [row["input_ids"] for row in rows] if isinstance(rows, list) else rows["input_ids"][:]
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    ordered = [rows[row] for row in order] if isinstance(rows, list) else rows.select(order)
    logits: list[tuple[torch.Tensor, ...]] = []
    for outputs in forward(model, ordered, tokenizer):
        batch = [outputs[name].float().cpu() for name in names]
        if not all(bool(values.isfinite().all()) for values in batch):
            raise FloatingPointError(
                f"logits of {type(model).__name__} are not finite: fine-tuning diverged; lower learning_rate, or "
                "train in dtype=float32"
            )
        logits += zip(*batch, strict=True)
    # the argsort of a permutation is its inverse
    return [logits[place] for place in np.argsort(order)]


def collator_of(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Any:
    """The collator that pads a batch of tokenized rows for a model, and labels of tokens."""
    head = HEADS.get(type(model).__name__)
    has_tags = head is not None and head.kind is TOKEN_CLASSIFICATION
    collator: Any = DataCollatorForTokenClassification if has_tags else DataCollatorWithPadding
    return collator(tokenizer, pad_to_multiple_of=padding_multiple(model.config))
