"""How a student was made, in the words of its model card: one entry for each training method.

Which places of the card they fill is `card.py`'s business; what the methods do is told in `methods/`.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """What a card says of a method.

    Args:
        student: name of such a student, in front of "of" and the teacher's name.
        made: ends the sentence "a BERT of 6 layers that was …"; `{teacher}` is the teacher's place.
        how: the paragraph on how it was made.
        paper: what HomoDistil's paper has to do with it, in front of the citation.
        tags: words for the card's header.
    """

    student: str
    made: str
    how: str
    paper: str
    tags: tuple[str, ...]


NAMESAKE = "HomoDistil, which `homodistil_hf` is named after, is the method of"
"""Begins what is said of the paper where nothing of it is known to be in the student."""


_UNITS = "units (hidden channels, heads, channels of heads, FFN neurons)"


_HOMODISTIL_LOSSES = "What was left, a smaller dense model, was then distilled with HomoDistil's losses."


_LOSSES_ALONE = "The losses are HomoDistil's, its gradual pruning is not; HomoDistil is the method of"


_ANOTHER_METHOD = f"This student was trained by another method; {NAMESAKE}"


_FRESH = "The student began with random weights and kept none of the teacher's."


_WEIGHTED = "each with its weight in the settings below."


ORIGINS: dict[str, Origin] = {
    "homodistil": Origin(
        student="HomoDistil student",
        made="made from {teacher} by pruning its width while distilling it",
        how=f"The student began as an exact copy of its teacher. While it was distilled, its least important {_UNITS} "
        "were dropped a few at a time: HomoDistil. What was left is a smaller dense model.",
        paper="The student was made by HomoDistil, the method of",
        tags=("pruning", "distillation"),
    ),
    "shallow": Origin(
        student="Shallow HomoDistil student",
        made="made from {teacher} by leaving out layers and pruning the width of the others while distilling them",
        how="The student began as a copy of its teacher without some of the layers; those that stayed are spread "
        f"evenly over its depth. While it was distilled, its least important {_UNITS} were dropped a few at a time, "
        "as in HomoDistil. What was left is a smaller dense model.",
        paper="The student was made by HomoDistil on fewer layers; HomoDistil is the method of",
        tags=("pruning", "distillation"),
    ),
    "one_shot": Origin(
        student="One-shot pruned student",
        made="made from {teacher} by pruning its width at once and distilling it afterwards",
        how="The student began as a copy of its teacher. Before training, its "
        f"{_UNITS} were scored on a few batches, and the least important ones were dropped all at once. "
        f"{_HOMODISTIL_LOSSES}",
        paper=_LOSSES_ALONE,
        tags=("pruning", "distillation"),
    ),
    "shallow_one_shot": Origin(
        student="Shallow one-shot pruned student",
        made="made from {teacher} by leaving out layers, pruning the width of the others at once and distilling them "
        "afterwards",
        how="The student began as a copy of its teacher without some of the layers; those that stayed are spread "
        f"evenly over its depth. Before training, its {_UNITS} were scored on a few batches, and the least important "
        f"ones were dropped all at once. {_HOMODISTIL_LOSSES}",
        paper=_LOSSES_ALONE,
        tags=("pruning", "distillation"),
    ),
    "pruned_first": Origin(
        student="Magnitude-pruned student",
        made="made from {teacher} by pruning its width at once, without data, and distilling it afterwards",
        how=f"The student began as a copy of its teacher. Before training, those of its {_UNITS} whose weights have "
        f"the smallest magnitudes were dropped all at once. {_HOMODISTIL_LOSSES}",
        paper=_LOSSES_ALONE,
        tags=("pruning", "distillation"),
    ),
    "scratch": Origin(
        student="From-scratch counterpart",
        made="trained from random weights on masked words, as a counterpart of {teacher}; nothing was distilled",
        how=f"{_FRESH} It was trained on masked words alone. What is called its teacher here lent it depth and "
        "vocabulary, and is what it is compared with.",
        paper=_ANOTHER_METHOD,
        tags=(),
    ),
    "distilbert": Origin(
        student="DistilBERT-style student",
        made="made from whole layers of {teacher} and distilled from it",
        how="The student began as a copy of its teacher without some of the layers; those that stayed are spread "
        "evenly over its depth and have their full width. It was then distilled after the recipe of DistilBERT (Sanh "
        "et al. 2019, arXiv 1910.01108): masked words, the teacher's softened predictions and the direction of its "
        f"last hidden states, {_WEIGHTED}",
        paper=_ANOTHER_METHOD,
        tags=("distillation",),
    ),
    "tinybert": Origin(
        student="TinyBERT-style student",
        made="started from random weights and distilled from {teacher}",
        how=f"{_FRESH} It was distilled after the recipe of TinyBERT's general distillation (Jiao et al. 2020, arXiv "
        "1909.10351): the teacher's embeddings, hidden states and attention scores, and masked words beside, "
        f"{_WEIGHTED}",
        paper=_ANOTHER_METHOD,
        tags=("distillation",),
    ),
    "minilm": Origin(
        student="MiniLM-style student",
        made="started from random weights and distilled from {teacher}",
        how=f"{_FRESH} It was distilled after the recipe of MiniLM (Wang et al. 2020, arXiv 2002.10957): attention "
        f"distributions and value relations of the teacher's last layer, and masked words beside, {_WEIGHTED}",
        paper=_ANOTHER_METHOD,
        tags=("distillation",),
    ),
    "minilm_v2": Origin(
        student="MiniLMv2-style student",
        made="started from random weights and distilled from {teacher}",
        how=f"{_FRESH} It was distilled after the recipe of MiniLMv2 (Wang et al. 2021, arXiv 2012.15828): relations "
        "of queries, of keys and of values in one of the teacher's layers, and masked words beside, "
        f"{_WEIGHTED}",
        paper=_ANOTHER_METHOD,
        tags=("distillation",),
    ),
}
