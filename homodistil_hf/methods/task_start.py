"""The small model that a task's run starts from: found in its folder, compared with the fine-tuned teacher."""

from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..export.facts import read_export_facts
from ..files.messages import short_repr
from ..homodistil_args import WITHOUT_PART_BESIDE_A_START
from ..models.architectures import HEADS, architecture_of, max_tokens
from ..models.loading import load_encoder_config
from ..models.tokenizers import load_tokenizer
from ..models.widths import WidthPlan, widths_of
from ..training.small_start import folder_of_start, is_of_a_task
from .run_arguments import RunConfig

START_WEIGHTS = {"hidden_weight": 1.0, "embedding_weight": 0.0}
"""Factors of the loss of such a run, where no others are given: those of `homodistil finetune --teacher`."""
_WITHOUT_PART = {
    "recipe": "its settings are of pruning",
    "student": "the student keeps the widths of its start",
    **WITHOUT_PART_BESIDE_A_START,
}
_ANOTHER = "start from a student that was made from the teacher, or from the model that it was fine-tuned from"


def check_start_settings(settings: RunConfig, method: str) -> None:
    """Refuse, by a ValueError, settings that have no part beside `start`."""
    start = settings.run.start
    if method != "homodistil":
        raise ValueError(f"start={start!r} has no place with method={method!r}; leave out one of them")
    for name, reason in _WITHOUT_PART.items():
        if name in settings.given:
            value = short_repr(settings.given[name])
            raise ValueError(f"{name}={value} beside start={start!r}: {reason}; leave out one of them")


def start_plan(settings: RunConfig, teacher: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> WidthPlan:
    """Widths of the start, once its configuration is compared with the teacher's; no weights are read.

    Raises:
        ValueError: no smaller model, or one of another task or architecture, other words, layers or positions.
        OSError: it can't be read.
    """
    run, training = settings.run, settings.training
    start, token = run.start, training.hub_token
    folder, is_export = folder_of_start(start)
    config = load_encoder_config(folder, token=token, argument="start")
    # first the configurations, then words, positions and widths
    compared = {"architecture": [architecture_of(one).name for one in (config, teacher)]}
    if is_of_a_task(config.architectures[0]):  # else it gets a head of the teacher's kind
        compared["class"] = [HEADS[one.architectures[0]].stock_name for one in (config, teacher)]
        compared["num_labels"] = [config.num_labels, teacher.num_labels]
    compared["vocab_size"] = [config.vocab_size, teacher.vocab_size]
    # states are compared layer by layer unless hidden_weight=0 is given: here its default is 1
    has_more = config.num_hidden_layers > teacher.num_hidden_layers
    if has_more and (training.hidden_weight or "hidden_weight" not in settings.given):
        compared["num_hidden_layers"] = [config.num_hidden_layers, teacher.num_hidden_layers]
    for what, (own, other) in compared.items():
        if own != other:
            remedy = ", or set hidden_weight=0" if what == "num_hidden_layers" else ""
            raise ValueError(
                f"start={start!r} has {what}={own}, the teacher {run.teacher!r} {other}; {_ANOTHER}{remedy}"
            )
    _check_words(start, load_tokenizer(folder, token=token, argument="start"), run.teacher, tokenizer)
    if (most := max_tokens(config)) < (run.max_seq_length or max_tokens(teacher)):
        raise ValueError(f"start={start!r} reads {most} tokens, fewer than the teacher; set max_seq_length={most}")
    plan = _widths_in(Path(folder), config, is_export)
    if plan == widths_of(teacher):
        raise ValueError(
            f"start={start!r} is as wide as the teacher {run.teacher!r}; start from a smaller model, or set "
            "student=macs=0.25 instead"
        )
    return plan


def _widths_in(folder: Path, config: PreTrainedConfig, is_export: bool) -> WidthPlan:
    # a standard export may be padded to its stock class; its facts hold the widths without padding
    forms = read_export_facts(folder)["forms"] if is_export else None
    return WidthPlan.from_dict(forms["compact"]["plan"], config.num_hidden_layers) if forms else widths_of(config)


def _check_words(start: str, own: PreTrainedTokenizerBase, teacher: str, tokenizer: PreTrainedTokenizerBase) -> None:
    # words by rising id; a tokenizer may end before vocab_size, so only the ids of both are compared
    words, others = (sorted(one.get_vocab().items(), key=lambda item: item[1]) for one in (own, tokenizer))
    for (word, number), (other, _) in zip(words, others, strict=False):
        if word != other:
            raise ValueError(
                f"start={start!r} reads {short_repr(word)} as token {number}, the teacher {teacher!r} "
                f"{short_repr(other)}; {_ANOTHER}"
            )
