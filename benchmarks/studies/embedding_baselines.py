"""Small embedding models by sentence-transformers' own means, for `benchmarks.studies.embeddings` to compare with.

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

WARM_UP = 0.1
"""Share of the steps in which the rate rises; the library advises 1,000 of some hundred thousands."""


def train(
    folder: Path,
    *,
    teacher: str,
    layers: Sequence[int] | None,
    shape: str | Path | None,
    texts: Sequence[str],
    steps: int,
    rate: float,
    seed: int,
    batch_size: int = 64,
    max_length: int = 64,
    bf16: bool = False,
) -> None:
    """Make a student and teach it vectors; texts are read `steps` × `batch_size` at most.

    Args:
        folder: where the student is written to.
        teacher: folder of sentence-transformers.
        layers: which of the teacher's stay; the loss is the library's for them, the squared error.
        shape: folder of a student whose shape is taken and whose weights are drawn anew, where no layers are named;
            the loss is the squared distance of vectors.
        texts: one a row.
        steps: of the optimizer.
        rate: peak, then linear to zero.
        seed: of order, dropout and new weights.
        batch_size: rows of a step.
        max_length: tokens of a text.
        bf16: whether products are taken in bfloat16.
    """
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import EmbedDistillLoss, MSELoss

    torch.manual_seed(seed)
    student = SentenceTransformer(teacher if shape is None else str(shape), device="cpu")
    student.max_seq_length = max_length
    if layers is None:
        draw_anew(student)
        loss: Any = EmbedDistillLoss(student, distance_metric="l2")
    else:
        keep_layers(student, layers)
        loss = MSELoss(student)
    some = list(texts[: steps * batch_size])
    guide = SentenceTransformer(teacher, device="cpu")
    own_length, guide.max_seq_length = guide.max_seq_length, max_length
    vectors = guide.encode(some, batch_size=batch_size)
    args = SentenceTransformerTrainingArguments(
        str(folder.parent / "library"),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=rate,
        warmup_steps=round(WARM_UP * steps),
        seed=seed,
        bf16=bf16,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    rows = Dataset.from_dict({"sentence": some, "label": vectors.tolist()})
    SentenceTransformerTrainer(student, args=args, train_dataset=rows, loss=loss).train()
    student.max_seq_length = own_length
    student.save(str(folder))


def keep_layers(student: Any, layers: Sequence[int]) -> None:
    """Leave layers out of an encoder, as the library's example does."""
    encoder = student[0].auto_model
    encoder.encoder.layer = nn.ModuleList([encoder.encoder.layer[index] for index in layers])
    encoder.config.num_hidden_layers = len(layers)


def draw_anew(student: Any) -> None:
    """Give a model the weights that its class draws, and its linear maps those of theirs."""
    encoder = student[0].auto_model
    for module in encoder.modules():
        encoder._init_weights(module)
    for part in list(student.children())[1:]:
        for module in part.modules():
            if isinstance(module, nn.Linear):
                module.reset_parameters()
