"""A guarantee in place of an average: how often a student answers as its teacher, at least, by held-out rows.

[`guarantee`] bounds, exactly (Clopper and Pearson, 1934) for rows that are drawn as those in use are, independently
of each other. [`evaluate_classes`] compares the answers of a classifier, on rows of texts or pairs without labels; of
a model that tags tokens, the answer to a row is all its tags. `embedding/evaluate.py` compares the first hits of
vectors.
"""

import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.blocks import drawn
from ..data.read_line import columns_words, read_line
from ..export.card import guarantee_text, percent_below
from ..export.facts import GUARANTEE, is_guarantee
from ..files.caches import keep_datasets_here
from ..files.messages import short_repr
from ..files.provenance import public_name, version_facts
from ..files.settings import check_fields, make_tuples, setting
from ..files.strict_json import write_json
from ..models.architectures import max_tokens
from ..models.equality import weights_digest
from ..models.heads import logits_of_rows
from ..models.loading import load_encoder
from ..models.tokenizers import COPY, as_heads_read, fitted_length, load_tokenizer
from ..tasks.columns import ReadRows, check_named, check_rows, find_columns, is_missing
from ..tasks.encoding import texts_by_column
from ..tasks.kinds import CLASSES, LABELS, TAGS, names_of, task_kind_of
from ..tasks.reading import load_rows
from .evaluated_model import BOUND_TO, load_model, recorded_teacher, results_claimed
from .fine_tuning import settings_from

logger = logging.getLogger(__name__)

RESULTS_FILE = "classes.json"
_KINDS = (CLASSES, LABELS, TAGS)
CONFIDENCE = 0.95
WORDS = "words"
"""Name of the groups of [`length_groups`]."""
_LEAST_ROWS = 20  # of a group; with fewer even a group without any change is bounded below 0.86
_NUM_LENGTHS = 3
_BISECTIONS = 60
_NAMES = ("agreement", "agreement_of_groups")
"""Bounds over all rows, and of the group of rows that is worst."""


@cache
def largest_share(num_changed: int, num_rows: int, *, confidence: float = CONFIDENCE) -> float:
    """The upper bound of a share, of which `num_changed` of `num_rows` independent rows were seen.

    It is the largest p with P(X ≤ num_changed) ≥ 1 − confidence for X binomial of `num_rows` and p, found by bisection
    of the tail; it is also the quantile `confidence` of a beta distribution (num_changed + 1, num_rows − num_changed).

    Args:
        num_changed: from 0 to `num_rows`.
        num_rows: ≥ 1.
        confidence: chance, at least, that the bound is not below the true share, in (0, 1).

    Example:
    ```python
    >>> round(largest_share(0, 100), 4), round(1 - 0.05 ** (1 / 100), 4)
    (0.0295, 0.0295)

    ```
    """
    if num_changed == num_rows:
        return 1.0
    # the tail falls as p grows: bisect between the seen share and 1
    low, high = num_changed / num_rows, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _log_tail(num_changed, num_rows, middle) >= math.log1p(-confidence):
            low = middle
        else:
            high = middle
    return high  # the upper end, as a bound may be rounded up alone


def _log_tail(most: int, num_rows: int, share: float) -> float:
    """The logarithm of P(X ≤ most) for X binomial."""
    # log Σ_k C(n, k) pᵏ (1 − p)ⁿ⁻ᵏ by logarithms, as C(n, k) may be beyond every float
    counts = torch.arange(most + 1, dtype=torch.float64)
    choices = math.lgamma(num_rows + 1) - torch.lgamma(counts + 1) - torch.lgamma(num_rows - counts + 1)
    terms = choices + counts * math.log(share) + (num_rows - counts) * math.log1p(-share)
    return float(terms.logsumexp(0))


def guarantee(changed: Sequence[bool], groups: Mapping[str, Sequence[Any]] | None = None) -> dict[str, Any]:
    """Bound the share of answers that are the teacher's from below, over all rows and by groups of them.

    Args:
        changed: of each row whether its answer is another than the teacher's.
        groups: name of a column → its value in each row.

    Returns:
        `dict`: `num_rows`, `num_changed`, `agreement`, the share of these rows, and `at_least`, its bound at
        `CONFIDENCE`. `groups`: column → value → the same, for values of 20 rows or more. All bounds, of all columns
        and over all rows, hold together with that confidence (Bonferroni): each is lower than it would be alone.
    """
    large: dict[str, list[str]] = {}
    named = {column: np.array(list(map(str, values))) for column, values in (groups or {}).items()}
    for column, values in named.items():
        sizes = Counter(values.tolist())
        by_number = sorted(sizes, key=lambda name: (int((re.findall(r"\d+", name) or ["0"])[0]), name))
        large[column] = [name for name in by_number if sizes[name] >= _LEAST_ROWS]
    # all rows and all groups share the chance of an error
    confidence = 1 - (1 - CONFIDENCE) / (1 + sum(map(len, large.values())))
    is_changed = np.array(changed, dtype=bool)
    parts = {
        column: {name: _bounded(is_changed[named[column] == name], confidence) for name in names}
        for column, names in large.items()
    }
    return _bounded(is_changed, confidence) | {"confidence": CONFIDENCE, "groups": parts}


def _bounded(is_changed: np.ndarray, confidence: float) -> dict[str, Any]:
    num_rows, num_changed = len(is_changed), int(is_changed.sum())
    return {
        "num_rows": num_rows,
        "num_changed": num_changed,
        "agreement": 1 - num_changed / num_rows,
        "at_least": 1 - largest_share(num_changed, num_rows, confidence=confidence),
    }


def length_groups(texts: Sequence[str]) -> list[str]:
    """Name each text's group by its number of words, in three groups of about as many texts.

    Example:
    ```python
    >>> length_groups(["a b", "a", "a b c d e", "a b c", "a b c d"])
    ['≤ 2', '≤ 2', '≥ 5', '3–4', '3–4']

    ```
    """
    lengths = [len(text.split()) for text in texts]
    ranked = sorted(lengths)
    # the longest of the first third, and of the second
    first, second = (ranked[(len(ranked) * part - 1) // _NUM_LENGTHS] for part in (1, 2))

    def name(length: int) -> str:
        if length <= first:
            return f"≤ {first}"
        return "–".join(map(str, dict.fromkeys((first + 1, second)))) if length <= second else f"≥ {second + 1}"

    return [name(length) for length in lengths]


def least_of(words: Sequence[str]) -> dict[str, float]:
    """Read `agreement=0.95`, the bounds that [`guarantee_problems`] asks for.

    Raises:
        ValueError: another name, or no share.
    """
    found = {}
    for word in words:
        name, _, number = word.partition("=")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if name not in _NAMES or not 0 < share < 1:
            raise ValueError(
                f"least={short_repr(word)}: expected {' or '.join(_NAMES)}=SHARE, a share between 0 and 1, such as "
                "agreement=0.95"
            )
        found[name] = share
    return found


def guarantee_problems(found: Any, least: Mapping[str, float]) -> Iterator[str]:
    """Name each recorded bound that is below the wanted one.

    Args:
        found: the facts' section `guarantee`.
        least: content of [`least_of`].

    Returns:
        Lines; one where nothing is recorded that could hold.
    """
    if not least:
        return
    if not found or not is_guarantee(found):
        yield (
            "no guarantee is recorded; measure it on held-out rows first, by homodistil evaluate "
            "(docs/guides/evaluate.md)"
        )
        return
    for source, one in found.items():
        of_groups = {
            f"{source}, {column}: {value}": part["at_least"]
            for column, values in one["groups"].items()
            for value, part in values.items()
        }
        if "agreement_of_groups" in least and not of_groups:
            yield f"{source}: no guarantee of groups is recorded, as none has {_LEAST_ROWS} rows"
        bounds = {"agreement": {source: one["at_least"]}, "agreement_of_groups": of_groups}
        for name, share in least.items():
            for where, bound in bounds[name].items():
                # written so that NaN is below every share
                if not bound >= share:
                    found_least = percent_below(bound)
                    yield f"{where}: expected answers as the teacher's for at least {share:.1%}, found {found_least}%"


# Answers of classifiers


@dataclass(frozen=True)
class ClassesSettings:
    """Settings of [`evaluate_classes`]."""

    eval_data: tuple[str, ...] = setting((), "Held-out rows: any files, folders, globs or Hub data sets.")
    text_columns: tuple[str, ...] = setting((), "One, or two for pairs; default: found by their usual names.")
    group_columns: tuple[str, ...] = setting((), "Columns to bound by: language, source …")
    eval_split: str = setting("validation", "Split of a Hub data set or folder.")
    max_seq_length: int | None = setting(None, "Tokens a row; the rest is cut off (default: all positions).", least=8)
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
        # of both, as both read the same rows
        shorter = min((model.config for model, _ in models), key=max_tokens)
        most = min(max_tokens(shorter), *(tokenizer.model_max_length for _, tokenizer in models))
        length = fitted_length(settings.max_seq_length, shorter, argument="max_seq_length", default=most)
        if num_cut := sum(len(ids) > length for ids in evaluated.tokenizer(*columns, verbose=False)["input_ids"]):
            logger.warning(
                "%d of %d rows are longer than %d tokens: answers are bounded to the first %d of each; %s",
                *(num_cut, len(columns[0]), length, length),
                f"--max_seq_length takes up to {most}" if length < most else "the model reads no more",
            )
        pairs = zip(*(answers(*one, columns, max_length=length) for one in models), strict=True)
        words = length_groups([" ".join(texts) for texts in zip(*columns, strict=True)])
        found = guarantee([answer != other for answer, other in pairs], {WORDS: words} | groups)
        source = ", ".join(map(public_name, settings.eval_data))
        bound_to = {"sha256": evaluated.sha256, "teacher_sha256": weights_digest(beside), "max_seq_length": length}
        results = {"teacher": public_name(name), GUARANTEE: {source: found}, "max_seq_length": length}
        results |= {"num_cut_rows": num_cut, "versions": version_facts()}
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
    part = ReadRows(rows, columns, "eval_data")
    check_rows(part)
    words = columns_words((*columns.texts, *settings.group_columns), whole.column_names)
    say(read_line({f"of {len(whole):,} to evaluate on": rows}, words))
    # 0 and False are groups of their own
    groups = {
        name: ["none" if cell in (None, "") else str(cell) for cell in rows[name]] for name in settings.group_columns
    }
    return texts_by_column(part), groups


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
        Of each row its class, all its classes where a row may have several, or the tags of its words.
    """
    by_words = _kind(model) == TAGS and tokenizer.is_fast
    encoded = tokenizer(*columns, truncation=True, max_length=max_length, return_offsets_mapping=by_words)
    places = encoded.pop("offset_mapping", None)
    rows = Dataset.from_dict(dict(encoded))
    logits_of = [logits for (logits,) in logits_of_rows(model, rows, tokenizer, "logits")]
    if _kind(model) == TAGS:
        # (T, C) of each row: its own tokens, without padding
        lengths, is_left = map(len, rows["input_ids"][:]), tokenizer.padding_side == "left"
        tokens_of = (slice(-length, None) if is_left else slice(length) for length in lengths)
        tags = [logits[tokens].argmax(-1).tolist() for logits, tokens in zip(logits_of, tokens_of, strict=True)]
        if places is None:
            return tags
        # that of a word's first token counts, as in training
        firsts = (
            _first_tokens(text, of_row, encoded.word_ids(row))
            for row, (text, of_row) in enumerate(zip(columns[0], places, strict=True))
        )
        return [
            [tag for tag, is_first in zip(of_row, are_first, strict=True) if is_first]
            for of_row, are_first in zip(tags, firsts, strict=True)
        ]
    if _kind(model) == LABELS:
        return [(logits > 0).tolist() for logits in logits_of]
    return [int(logits.argmax()) for logits in logits_of]


def _first_tokens(text: str, places: Sequence[tuple[int, int]], word_ids: Sequence[int | None]) -> list[bool]:
    """Of each token whether it begins a word, of blanks or of the tokenizer's pieces; special tokens are of none."""
    found, before, end = [], None, 0
    for (first, last), word in zip(places, word_ids, strict=True):
        # a token may begin with the blank in front of it
        found.append(word is not None and (word != before or any(map(str.isspace, text[end : first + 1]))))
        before, end = (before, end) if word is None else (word, last)
    return found
