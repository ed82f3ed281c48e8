"""What a method of training says of itself in the cards of its students; `card.py` puts the texts into a card."""

from dataclasses import dataclass

NAMESAKE = "HomoDistil, which `homodistil_hf` is named after, is the method of"
"""Begins the sentence on the paper in cards of students that may have nothing of it."""

LOSSES_ALONE = "The losses are HomoDistil's, its gradual pruning is not; HomoDistil is the method of"
"""The same in cards of students that were not pruned gradually."""


@dataclass(frozen=True)
class MethodCard:
    """The texts on a training method; exports carry them in their facts.

    Args:
        student: name of such a student, in front of "of" and the teacher's name.
        made: ends the sentence "a BERT of 6 layers that was …"; `{teacher}` is the teacher's place.
        how: the paragraph on how it was made.
        paper: how HomoDistil's paper relates to it, in front of the citation.
        tags: words for the card's header.
    """

    student: str
    made: str
    how: str
    paper: str = f"This student was trained by another method; {NAMESAKE}"
    tags: tuple[str, ...] = ("distillation",)
