"""Small embedding models by sentence-transformers' own means, for embeddings.py to compare with.

Layers are left out of a copy of the teacher, or an encoder of a narrow student's shape starts from random weights;
both learn the teacher's vectors with the library's Trainer, as its documentation of distillation advises. Needs the
extra `embeddings`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn

from benchmarks.quiet import QUIET
from homodistil_hf.distillation.teacher import multiplies_bfloat16

WARM_UP = 0.1
"""Share of the steps in which the rate rises; the library advises 1,000 of some hundred thousands."""


def train(
    folder: Path,
    texts: Sequence[str],
    *,
    teacher: str,
    layers: Sequence[int] | None,
    shape: Path | None,
    max_length: int,
    **settings: Any,
) -> None:
    """Make a student and teach it vectors.

    Args:
        folder: where the student is written.
        texts: one a row.
        teacher: folder of sentence-transformers.
        layers: which of the teacher's stay; the loss is the library's for them, the squared error.
        shape: without `layers`: folder of a student of the same shape, whose weights are drawn again; the loss is the
            squared distance of vectors.
        max_length: tokens of a text.
        settings: of the library's Trainer: `max_steps`, `learning_rate` (peak, then linear to zero), `seed`, ….
    """
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import EmbedDistillLoss, MSELoss

    torch.manual_seed(settings["seed"])
    student = SentenceTransformer(teacher if shape is None else str(shape), device="cpu")
    student.max_seq_length = max_length
    if layers is None:
        draw_weights(student)
        loss: Any = EmbedDistillLoss(student, distance_metric="l2")
    else:
        encoder = student[0].auto_model
        encoder.encoder.layer = nn.ModuleList([encoder.encoder.layer[index] for index in layers])
        encoder.config.num_hidden_layers = len(layers)
        loss = MSELoss(student)
    guide = SentenceTransformer(teacher, device="cpu")
    own_length, guide.max_seq_length = guide.max_seq_length, max_length
    vectors = guide.encode(list(texts), batch_size=settings["per_device_train_batch_size"])
    args = SentenceTransformerTrainingArguments(
        str(folder.parent / "library"),
        warmup_steps=round(WARM_UP * settings["max_steps"]),
        bf16=multiplies_bfloat16(torch.device("cpu")),
        use_cpu=True,
        **QUIET,
        **settings,
    )
    rows = Dataset.from_dict({"sentence": list(texts), "label": vectors.tolist()})
    SentenceTransformerTrainer(student, args=args, train_dataset=rows, loss=loss).train()
    student.max_seq_length = own_length
    student.save(str(folder))


def draw_weights(student: Any) -> None:
    """Initialize an encoder as its class does, and the linear maps behind it as torch does."""
    encoder = student[0].auto_model
    for module in encoder.modules():
        encoder._init_weights(module)
    for part in list(student.children())[1:]:
        for module in part.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
