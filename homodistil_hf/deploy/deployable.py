"""What is deployed: a module with named inputs and outputs, the way of a text into it, and the comparison of results.

This file makes it of a model with a head. A method whose exports are of other kinds makes it beside its own files;
`methods/formats.py` has the list.

Shapes: B texts, T tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..export.export_folder import load_export
from ..export.facts import DATA, FACTS_FILE, read_facts, section_of
from ..models.architectures import HEADS, has_segments, max_tokens
from ..models.architectures.architecture import QUESTION_ANSWERING, SEQUENCE_CLASSIFICATION
from ..models.equality import relative_difference
from ..models.loading import load_encoder, load_encoder_config
from ..models.tokenizers import as_heads_read, as_it_was, check_padding, load_tokenizer
from ..tasks.kinds import LABELS, VALUES, task_kind_of

Row = tuple[str, str | None]
"""A text, and the second one of a pair or None."""
Outputs = dict[str, torch.Tensor]
"""Results of one row by name, without padding."""
Fidelity = dict[str, float]
"""Figures of a comparison; `fidelity` is the one that the bar is for."""

_LONGEST_EXAMPLE = 1024
_ANSWERS = ("start_logits", "end_logits")
_FIDELITY_NAMES = {
    "first": "first answers equal",
    "each": "texts with all labels equal",
    "order": "pairs of texts in the same order",
}
"""Rule of [`compare_answers`] → words for its `fidelity`."""
_MANY_CLASSES = 1000
_MOST_POSITIONS = 8


@dataclass(frozen=True)
class Deployable:
    """A model ready to become a graph.

    Args:
        module: takes `input_ids`, `attention_mask` and perhaps `token_type_ids`, each `(B, T)` int64, by position;
            returns a tuple.
        config: of the model; runtimes with classes of their own read it.
        tokenizer: of the model.
        max_length: tokens of a text at most.
        output_names: of what the module returns.
        read: outputs and inputs of a batch → the results of each row.
        compare: expected and found results of all rows → figures.
        fidelity_name: words for `fidelity` in a table.
        takes_pairs: whether a row is a pair of texts.
        can_take_pairs: whether it may be one, if a user's texts are pairs.
        javascript: what the script of transformers.js needs to run it; None: that runtime has no class for it.
        prepare: a text → as the tokenizer gets it.
        note: a sentence on what a graph leaves out, for the card; empty where it leaves out nothing.
    """

    module: nn.Module
    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    output_names: tuple[str, ...]
    read: Callable[[Mapping[str, torch.Tensor], Mapping[str, torch.Tensor]], list[Outputs]]
    compare: Callable[[Sequence[Outputs], Sequence[Outputs]], Fidelity]
    fidelity_name: str = _FIDELITY_NAMES["first"]
    takes_pairs: bool = False
    can_take_pairs: bool = False
    javascript: Mapping[str, Any] | None = None
    prepare: Callable[[str], str] = str
    note: str = ""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Inputs of the graph: those that the tokenizer gives."""
        known = ("input_ids", "attention_mask", "token_type_ids")
        return tuple(name for name in known if name in (*known[:2], *self.tokenizer.model_input_names))

    def inputs(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Rows as one padded batch, `(B, T)` each."""
        cut = {"truncation": True, "max_length": self.max_length}
        found = self._tokenized(rows, padding=True, return_tensors="pt", **cut)
        return {name: found[name] for name in self.input_names}

    def fits(self, row: Row) -> bool:
        """Whether a row is not cut."""
        return len(self._tokenized([row], verbose=False)["input_ids"][0]) <= self.max_length

    def _tokenized(self, rows: Sequence[Row], **options: Any) -> Any:
        first = [self.prepare(text) for text, _ in rows]
        second = [self.prepare(text or "") for _, text in rows] if self.takes_pairs else None
        with as_it_was(self.tokenizer):
            return self.tokenizer(first, second, **options)

    def example(self) -> tuple[torch.Tensor, ...]:
        """Inputs that a graph is traced with: longer than a window of attention, shorter than all positions."""
        num_tokens = max(2, min(max_tokens(self.config) - 1, _LONGEST_EXAMPLE))
        ids_BT = torch.ones(1, num_tokens, dtype=torch.int64)
        return tuple(torch.zeros_like(ids_BT) if name == "token_type_ids" else ids_BT for name in self.input_names)

    @torch.no_grad()
    def results(self, rows: Sequence[Row]) -> list[Outputs]:
        """The model's own results of rows, each row alone."""
        found: list[Outputs] = []
        for row in rows:
            inputs = self.inputs([row])
            outputs = self.module(*inputs.values())
            found += self.read(dict(zip(self.output_names, outputs, strict=True)), inputs)
        return found


class NamedOutputs(nn.Module):
    """A model that takes its inputs by position and returns some of its outputs as a tuple."""

    def __init__(self, model: PreTrainedModel, output_names: Sequence[str]):
        super().__init__()
        self.model, self.output_names = model, tuple(output_names)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, token_type_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Run the model on `(B, T)` int64 each."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None:
            inputs["token_type_ids"] = token_type_ids
        outputs = self.model(**inputs)
        return tuple(outputs[name] for name in self.output_names)


def model_with_head(folder: str | Path) -> Deployable:
    """Make an export, or any model with a head, ready; layers that an export pads are unpadded.

    Args:
        folder: an export of this package; or folder or Hub name of another model.

    Raises:
        ValueError: it can't be loaded, or has no tokenizer.
    """
    is_export = (Path(folder) / FACTS_FILE).is_file()
    model: Any = load_export(folder) if is_export else load_encoder(str(folder), argument="teacher")
    tokenizer = load_tokenizer(folder, argument="folder", remedy="a runtime needs one: save the model's beside it")
    check_padding(tokenizer)
    as_heads_read(tokenizer, model.config)
    kind = HEADS[type(model).__name__].kind
    is_about_text = kind is SEQUENCE_CLASSIFICATION
    names = _ANSWERS if kind is QUESTION_ANSWERING else ("logits",)
    config = model.config
    rule = {VALUES: "order", LABELS: "each"}.get(task_kind_of(config, type(model).__name__), "first")
    # what the student was trained on; else values of one output are most often of pairs
    texts = section_of(read_facts(Path(folder)), DATA).get("text_columns") if is_export else None
    are_pairs = len(texts) == 2 if isinstance(texts, list) else config.num_labels == 1 and has_segments(config)
    # masks and unknown words stand for text, other special tokens don't
    skipped = sorted(set(tokenizer.all_special_ids) - {tokenizer.mask_token_id, tokenizer.unk_token_id})

    def read(outputs: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor]) -> list[Outputs]:
        if is_about_text:
            return [{name: tensor[row] for name, tensor in outputs.items()} for row in range(len(inputs["input_ids"]))]
        found: list[Outputs] = []
        for row, ids_T in enumerate(inputs["input_ids"]):
            # without padding, and without special tokens, unless tokens have one number each
            is_text_T = inputs["attention_mask"][row].bool()
            is_word_T = is_text_T & ~torch.isin(ids_T, torch.tensor(skipped, dtype=ids_T.dtype))
            found.append({})
            for name, tensor in outputs.items():
                kept = tensor[row][is_text_T if tensor[row].dim() == 1 else is_word_T]
                found[-1][name] = kept if kept.dim() == 1 else kept[some_positions(*kept.shape)]
        return found

    return Deployable(
        NamedOutputs(model.float().eval(), names),
        load_encoder_config(str(folder), argument="folder") if is_export else model.config,
        tokenizer,
        min(max_tokens(config), tokenizer.model_max_length),
        names,
        read,
        lambda expected, found: compare_answers(expected, found, rule),
        fidelity_name=_FIDELITY_NAMES[rule],
        takes_pairs=kind is QUESTION_ANSWERING or (is_about_text and are_pairs),
        can_take_pairs=is_about_text,
        javascript={
            "auto_class": kind.auto_class,
            "outputs": names,
            "is_about_text": is_about_text,
            "skipped": skipped,
        },
    )


# The comparison of results


def some_positions(num_tokens: int, num_classes: int) -> list[int]:
    """Positions of a row that are compared: all, or 8 spread evenly where each has the logits of a vocabulary.

    Example:
    ```python
    >>> some_positions(3, 9), some_positions(15, 30522)
    ([0, 1, 2], [0, 2, 4, 6, 8, 10, 12, 14])

    ```
    """
    if num_classes <= _MANY_CLASSES or num_tokens <= _MOST_POSITIONS:
        return list(range(num_tokens))
    # both ends are among them
    return [index * (num_tokens - 1) // (_MOST_POSITIONS - 1) for index in range(_MOST_POSITIONS)]


def compare_answers(
    expected: Sequence[Mapping[str, torch.Tensor]], found: Sequence[Mapping[str, torch.Tensor]], rule: str
) -> dict[str, float]:
    """Compare logits.

    Args:
        expected: the model's own, of each row: name → `(…, classes)`.
        found: the runtime's.
        rule: how answers are equal. `first`: the highest logit is that of the same class, token or position; `each`:
            all logits of a row have the same signs; `order`: two rows are in the same order by an output.

    Returns:
        `fidelity`: share of equal answers. `largest_difference`: of logits, as a share of the largest one or of 1.
        `distance`: length of all differences, as a share of the length of all logits.

    Example:
    ```python
    >>> rows = [{"logits": torch.tensor([1.0, 3.0])}, {"logits": torch.tensor([2.0, 0.0])}]
    >>> others = [{"logits": torch.tensor([1.0, 3.0])}, {"logits": torch.tensor([-1.0, 0.0])}]
    >>> compare_answers(rows, others, "first")["fidelity"]
    0.5

    ```
    """
    names = expected[0]
    pairs = [
        (one[name].float(), other[name].float()) for one, other in zip(expected, found, strict=True) for name in names
    ]
    if rule == "order":
        # the values of each row: (R, C) of the model and of the runtime
        first, second = (torch.stack([pair[side].flatten() for pair in pairs]) for side in (0, 1))
        # each pair of rows once
        rows = torch.triu_indices(len(first), len(first), 1)
        equal = (first[rows[0]] < first[rows[1]]) == (second[rows[0]] < second[rows[1]])
    elif rule == "each":
        equal = torch.stack([((one > 0) == (other > 0)).all() for one, other in pairs])
    else:
        equal = torch.cat([(one.argmax(-1) == other.argmax(-1)).flatten() for one, other in pairs])
    return {"fidelity": float(equal.double().mean()), **differences(pairs)}


def differences(pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> dict[str, float]:
    """`largest_difference` and `distance` of pairs of tensors, the expected one first; see [`compare_answers`]."""
    one, other = (torch.cat([pair[side].flatten() for pair in pairs]) for side in (0, 1))
    distance = float((other - one).norm() / one.norm().clamp(min=1e-30))
    return {"largest_difference": relative_difference(other, one), "distance": distance}
