"""A classifier beside its teacher, on rows without labels: how often its class is the teacher's, with a bound.

Rows may be texts or pairs; of a model that tags tokens, the answer to a row is all its tags. `guarantee.py` bounds.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.read_line import columns_words, read_line
from ..data.samples import drawn
from ..export.card import guarantee_text, percent_below
from ..export.facts import GUARANTEE
from ..files.caches import keep_datasets_here
from ..files.field_checks import check_fields, make_tuples, setting
from ..files.messages import short_repr
from ..files.provenance import public_name, version_facts
from ..files.strict_json import write_json
from ..models.equality import weights_digest
from ..models.heads import logits_of_rows
from ..models.loading import load_encoder
from ..models.tokenizers import COPY, as_heads_read, fitted_length, load_tokenizer
from ..tasks.columns import check_named, find_columns, is_missing
from ..tasks.encoding import check_rows, texts_by_column
from ..tasks.kinds import CLASSES, LABELS, TAGS, names_of, task_kind_of
from ..tasks.reading import load_rows
from .evaluated_model import BOUND_TO, load_model, recorded_teacher, results_claimed
from .fine_tuning import settings_from
from .guarantee import WORDS, guarantee, length_groups

logger = logging.getLogger(__name__)

RESULTS_FILE = "classes.json"
_KINDS = (CLASSES, LABELS, TAGS)


@dataclass(frozen=True)
class ClassesSettings:
    """Settings of [`evaluate_classes`].

    Raises:
        ValueError: a value is missing or out of range.
    """

    eval_data: tuple[str, ...] = setting((), "Held-out rows: any files, folders, globs or Hub data sets.")
    text_columns: tuple[str, ...] = setting((), "One, or two for pairs; default: found by their usual names.")
    group_columns: tuple[str, ...] = setting((), "Columns to bound by: language, source …")
    eval_split: str = setting("validation", "Split of a Hub data set or folder.")
    max_seq_length: int | None = setting(None, "Tokens a row (default: 128, or the positions).", least=8)
    max_rows: int = setting(10_000, "Rows at most, ≥ 1.", least=1)

    def __post_init__(self) -> None:
        make_tuples(self)
        if not self.eval_data:
            raise ValueError("eval_data is not set; name held-out rows, e.g. --eval_data rows.parquet")
        check_fields(self)


def evaluate_classes(
    model: str | Path,
    *,
    teacher: str | Path | None = None,
    settings: ClassesSettings | Mapping[str, Any],
    output_dir: str | Path | None = None,
    say: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Compare a classifier's answers with its teacher's, row by row, and bound how often they are the same.

    Args:
        model: export, finished run, folder or Hub name of a classifier of sequences or tokens.
        teacher: folder or Hub name; default: the one that the run recorded.
        settings: [`ClassesSettings`], or some of them by name; `eval_data` is needed.
        output_dir: folder of the results; default: `evaluations/NAME` beside the model.
        say: takes lines for the user.

    Returns:
        `dict`: the content of `classes.json`; `guarantee` has [`guarantee`] by the name of the rows. The facts and the
        card of an export get it too.

    Raises:
        ValueError: no classifier, no teacher or one of other labels, or rows that can't be used.
        OSError: a file or the Hub can't be read, or results can't be written.
    """
    settings = settings_from(ClassesSettings, settings)
    with results_claimed(model, output_dir) as folder:
        evaluated = load_model(model, output_dir)
        name = str(teacher or recorded_teacher(model) or "")
        if not name:
            raise ValueError(f"model={str(model)!r} is compared with a teacher, and none is recorded: name --teacher")
        beside = load_encoder(name)
        _check(evaluated.model, "model")
        _check(beside, "teacher")
        own, theirs = (names_of(one.config) for one in (evaluated.model, beside))
        if own != theirs or _kind(evaluated.model) != _kind(beside):
            raise ValueError(
                f"teacher is a {type(beside).__name__} of the labels {short_repr(theirs)}, for {_kind(beside)}, model "
                f"a {type(evaluated.model).__name__} of {short_repr(own)}, for {_kind(evaluated.model)}; name the "
                "teacher that the model was made from"
            )
        columns, groups = _rows(settings, evaluated.model, say)
        models = [
            (evaluated.model, evaluated.tokenizer),
            (beside, as_heads_read(load_tokenizer(name, remedy=COPY), beside.config)),
        ]
        length = fitted_length(
            settings.max_seq_length, evaluated.model.config, argument="max_seq_length", tokenizer=evaluated.tokenizer
        )
        pairs = zip(*(answers(*one, columns, max_length=length) for one in models), strict=True)
        words = length_groups([" ".join(texts) for texts in zip(*columns, strict=True)])
        found = guarantee([answer != other for answer, other in pairs], {WORDS: words} | groups)
        shown, bound = percent_below(found["agreement"]), percent_below(found["at_least"])
        say(f"classes as the teacher's {shown}%, at least {bound}%")
        source = ", ".join(map(public_name, settings.eval_data))
        bound_to = {"sha256": evaluated.sha256, "teacher_sha256": weights_digest(beside)}
        results = {"teacher": public_name(name), GUARANTEE: {source: found}, "versions": version_facts()}
        write_json(folder / RESULTS_FILE, results)
        evaluated.publish({GUARANTEE: results[GUARANTEE], BOUND_TO: bound_to, "tasks": {}})
        return results


def format_classes(results: Mapping[str, Any]) -> str:
    """Lay results of [`evaluate_classes`] out as Markdown."""
    return guarantee_text(results[GUARANTEE])


def _check(model: PreTrainedModel, argument: str) -> None:
    if _kind(model) not in _KINDS or model.config.num_labels < 2:
        raise ValueError(
            f"{argument} is a {type(model).__name__} of {model.config.num_labels} labels, for {_kind(model)}; "
            "expected two labels or more, of sequences or tokens: name a classifier"
        )


def _kind(model: PreTrainedModel) -> str:
    return task_kind_of(model.config, type(model).__name__)


def _rows(
    settings: ClassesSettings, model: PreTrainedModel, say: Callable[[str], None]
) -> tuple[list[list[str]], dict[str, list[str]]]:
    """Columns of texts, and columns to bound by; rows without all texts are left out."""
    keep_datasets_here()
    whole = load_rows(settings.eval_data, split=settings.eval_split, argument="eval_data")
    named = settings.text_columns
    columns = find_columns(whole, model.config, _kind(model), text_columns=named, argument="eval_data")
    for name in settings.group_columns:
        check_named(whole, name, "eval_data", "group_columns")
    cells = zip(*(whole[name][:] for name in columns.texts), strict=True)
    filled = [place for place, row in enumerate(cells) if not any(map(is_missing, row))]
    rows = drawn(whole.select(filled), settings.max_rows, seed=0)
    check_rows(rows, columns, "eval_data")
    words = columns_words((*columns.texts, *settings.group_columns), whole.column_names)
    say(read_line({f"of {len(whole):,} to evaluate on": rows}, words))
    # 0 and False are groups of their own
    groups = {
        name: ["none" if cell in (None, "") else str(cell) for cell in rows[name]] for name in settings.group_columns
    }
    return texts_by_column(rows, columns), groups


def answers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, columns: Sequence[list[str]], *, max_length: int
) -> list[Any]:
    """A classifier's answer to each row.

    Args:
        model: of sequences or tokens.
        tokenizer: of the model.
        columns: one or two, of texts.
        max_length: tokens a row; the rest of a text is cut off.

    Returns:
        Of each row its class, all its classes where a row may have several, or the tags of its tokens.
    """
    rows = Dataset.from_dict(dict(tokenizer(*columns, truncation=True, max_length=max_length)))
    logits_of = [logits for (logits,) in logits_of_rows(model, rows, tokenizer, "logits")]
    if _kind(model) == TAGS:
        # (T, C) of each row: its own tokens, without padding
        lengths, is_left = map(len, rows["input_ids"][:]), tokenizer.padding_side == "left"
        tokens_of = (slice(-length, None) if is_left else slice(length) for length in lengths)
        return [logits[tokens].argmax(-1).tolist() for logits, tokens in zip(logits_of, tokens_of, strict=True)]
    if _kind(model) == LABELS:
        return [(logits > 0).tolist() for logits in logits_of]
    return [int(logits.argmax()) for logits in logits_of]
