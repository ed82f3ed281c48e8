"""A teacher, its student and a batch of every task that a head can have."""

import torch
from students import WITHOUT_DROPOUT, make_batch
from tiny_models import make_teacher
from torch.nn import functional as F

from homodistil_hf.models.conversion import to_student

WIDER = {"num_labels": 3}
# name → (head, settings of the teacher, labels)
CASES = {
    "masked_lm": ("masked_lm", {}, {}),
    "two classes": ("sequence_classification", {}, {}),
    "three classes": ("sequence_classification", WIDER, {"labels": torch.tensor([2, 0, 1, 2])}),
    "regression": ("sequence_classification", {"num_labels": 1}, {"labels": torch.tensor([0.5, -1.0, 3.0, 0.0])}),
    "regression of integers": ("sequence_classification", {"num_labels": 1}, {"labels": torch.tensor([1, 0, 3, 2])}),
    "regression column": ("sequence_classification", {"num_labels": 1}, {"labels": torch.randn(4, 1)}),
    "regression of several": (
        "sequence_classification",
        WIDER | {"problem_type": "regression"},
        {"labels": torch.randn(4, 3)},
    ),
    "several labels": (
        "sequence_classification",
        WIDER | {"problem_type": "multi_label_classification"},
        {"labels": torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]])},
    ),
    "token_classification": ("token_classification", {}, {}),
    "question_answering": ("question_answering", {}, {}),
    "answers beyond the end": (
        "question_answering",
        {},
        {"start_positions": torch.tensor([1, 12, 3, 400]), "end_positions": torch.tensor([2, 12, 11, 30])},
    ),
    "answers in a column": (
        "question_answering",
        {},
        {name: torch.tensor([[1], [2], [3], [4]]) for name in ("start_positions", "end_positions")},
    ),
}


def stock_loss(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    """The loss that a stock model returns; of answers without its places in padding, which no answer can have."""
    with torch.no_grad():
        outputs = model(**inputs)
    if "start_positions" not in inputs:
        return float(outputs.loss)
    padding_BT, num_tokens = inputs["attention_mask"] == 0, inputs["input_ids"].shape[1]
    losses = []
    for logits, name in ((outputs.start_logits, "start_positions"), (outputs.end_logits, "end_positions")):
        places = inputs[name].view(-1).clamp(0, num_tokens)
        losses.append(F.cross_entropy(logits.masked_fill(padding_BT, -1e30), places, ignore_index=num_tokens))
    return float(sum(losses) / 2)


def make_case(name: str) -> tuple[torch.nn.Module, torch.nn.Module, dict[str, torch.Tensor]]:
    """Stock model, student, batch."""
    head, settings, labels = CASES[name]
    teacher = make_teacher(head, **WITHOUT_DROPOUT | settings)
    return teacher, to_student(teacher), make_batch(head) | labels
