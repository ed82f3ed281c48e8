"""The kind of run of rerankers: the student learns the scores of pairs, a query and its passage."""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..data.read_line import columns_words, read_line
from ..data.triplets import as_pairs
from ..embedding.model import SCORE_KEYS, name_unused
from ..embedding.reranker import PairReader, check_one_score, pairs_in
from ..files.caches import keep_datasets_here
from ..files.messages import join_some, short_repr
from ..models.loading import load_encoder
from ..models.tokenizers import COPY, as_heads_read, load_tokenizer
from ..tasks.columns import (
    LEAST_ROWS,
    RANKED_PAIRS,
    ReadRows,
    described_rows,
    has_values,
    listed_columns,
    ranks_pairs,
    what_is_read,
)
from ..tasks.held_out import apart
from ..tasks.reading import load_rows
from .embedding import UNUSED, in_batches, library_lines, training_of
from .kinds import Rows, RunInputs, StudentKind
from .masked_words import set_length, summary_with
from .settings import Log, RunConfig
from .task import row_length


def are_pairs_to_rank(given: Mapping[str, Any]) -> bool:
    """Whether the rows that settings describe are pairs to rank, and not those of a regression."""
    if given.get("label_column"):
        return False
    columns = _column_names(given)
    named = given.get("text_column") or given.get("text_columns") or ()
    texts = [name.strip() for name in (named.split(",") if isinstance(named, str) else named) if name.strip()]
    # by the columns that are named, where rows can't be read as well; else by the names of the rows' columns
    if texts or not columns:
        return len(texts) == 2 and (tuple(map(str.lower, texts)) in RANKED_PAIRS or not has_values(columns))
    return ranks_pairs(columns)


def check_inputs(settings: RunConfig) -> RunInputs:
    """Load the teacher."""
    name, token = settings.run.teacher, settings.training.hub_token
    model = load_encoder(name, token=token)
    check_one_score(model, f"teacher={name!r}")
    name_unused(name, [""], f"teacher={name!r}", read=SCORE_KEYS, token=token)
    tokenizer = load_tokenizer(name, token=token, argument="teacher", remedy=COPY)
    if settings.run.max_seq_length is not None:  # a default follows from the rows
        set_length(settings, model.config)
    return RunInputs(model.config, as_heads_read(tokenizer, model.config), model)


def read_rows(settings: RunConfig, inputs: RunInputs, log: Log) -> Rows:
    """Read pairs: rows to train on, in batches of about the same length, and rows to evaluate on."""
    run, config, tokenizer = settings.run, inputs.config, inputs.tokenizer
    texts = listed_columns(run.text_column)

    def read(data: list[str], split: str, name: str) -> ReadRows:
        rows = load_rows(data, split=split, argument=name.partition("=")[0])
        if not texts:
            present = rows.column_names
            rows, found = as_pairs(rows, name)
            if found is not None:
                log(f"{name}: {found.describe()}; {columns_words(found.read, present)}")
        return pairs_in(rows, texts=texts, label_column=run.label_column, argument=name, least=LEAST_ROWS)

    train = [read([name], run.train_split, f"train_data={name!r}") for name in run.train_data]
    columns = train[0].columns
    others = [name for name in train[0].rows.column_names if name not in columns.texts]
    labels = f" (if there are some in {join_some(others)}: method=reranker and label_column)" if others else ""
    log(
        f"{run.teacher} scores pairs of texts: a reranker (if it is a regression: method=homodistil); rows: "
        f"{columns.describe()}{', which the order is measured by' if columns.labels else labels}"
    )
    if run.eval_data:
        held_out = [read(run.eval_data, run.eval_split, f"eval_data={short_repr(run.eval_data)}")]
    else:
        # all pairs of a query go to one side
        train, held_out = map(
            list, zip(*(apart(part, log, together=part.columns.texts[0]) for part in train), strict=True)
        )
    length = row_length(settings, inputs, train, log)
    reader = PairReader(config, tokenizer, length, run.preprocessing_num_workers)
    tokenized = ([reader.encoded(part.rows, part.argument, part) for part in parts] for parts in (train, held_out))
    parts = in_batches(settings, *tokenized)
    rows, evaluated = parts.values()
    log(read_line(parts, **what_is_read([*train, *held_out]), tokenizer=tokenizer))
    return Rows(
        rows,
        evaluated,
        facts=described_rows("scores of pairs", train, held_out, length),
        grading=reader.grading_of(held_out),
    )


def _column_names(given: Mapping[str, Any]) -> list[str]:
    """Columns of local rows; none where they can't be read, which is told later."""
    sources = given.get("train_data") or []
    sources = [sources] if isinstance(sources, str) else sources  # as JSON may have it
    if not all(map(os.path.exists, sources)):
        return []
    keep_datasets_here()
    try:
        rows = load_rows(sources, split=given.get("train_split") or "train")
        return rows.column_names if given.get("text_column") else as_pairs(rows.take(1))[0].column_names
    except (OSError, ValueError):
        return []


KIND = StudentKind(
    inputs=check_inputs,
    rows=read_rows,
    training=training_of,
    summary=partial(summary_with, partial(library_lines, "CrossEncoder", 'print(model.predict([("…", "…")]))')),
    unused=(*UNUSED, "train_prompts", "vocabulary", "start", "streaming"),
)
