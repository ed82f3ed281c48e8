"""The run of a reranker: the student learns the scores of pairs, a query and its passage."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from datasets import Dataset
from transformers import PreTrainedConfig

from ..files.caches import keep_datasets_here
from ..files.messages import join_some, short_repr
from ..methods.masked_words import set_length
from ..methods.run_arguments import Log, RunArguments, RunConfig
from ..tasks.columns import ReadRows, described_rows, has_values, pair_in, ranks_pairs
from ..tasks.encoding import LEAST_ROWS, length_of_rows, what_fits
from ..tasks.held_out import apart
from ..tasks.reading import load_rows
from ..training.raw_rows import Grading
from .reading import kind_of_texts
from .reranker import PairReader, pairs_in
from .sources import Source, reranking_source
from .text_run import TextInputs, TextRun


class RerankerRun(TextRun):
    """A run that distils a reranker on pairs of texts."""

    unused = (*TextRun.unused, "train_prompts", "vocabulary", "start")
    loader = "CrossEncoder"
    example = 'print(model.predict([("…", "…")]))'
    grading: Grading | None = None
    """Of a model's order of the held-out pairs, once the rows are read; None without labels."""
    described: Mapping[str, Any] = {}
    """What was understood of the rows, for the results."""

    def claims(self, teacher: str, given: Mapping[str, Any]) -> bool:
        """Whether a teacher has one output, and its rows are pairs to rank: it may be a regression, too."""
        if not teacher or given.get("label_column") or given.get("method") is not None:
            return False
        if kind_of_texts(teacher, token=given.get("hub_token")) != self.method:
            return False
        columns = _column_names(given)
        named = given.get("text_column") or given.get("text_columns") or ()
        texts = [name for name in (named.split(",") if isinstance(named, str) else named) if name.strip()]
        # by the columns that are named, where rows can't be read as well; else by the names of the rows' columns
        return len(texts) == 2 and not has_values(columns) if texts or not columns else ranks_pairs(columns)

    def check_stream(self, settings: RunConfig) -> None:
        """Refuse, by a ValueError, any stream."""
        if settings.run.streaming:
            raise ValueError(f"streaming=True with method={self.method!r}: pairs can't be streamed; leave it out")

    def set_length(self, settings: RunConfig, config: PreTrainedConfig) -> None:
        """Check a length that is given; a default follows from the rows."""
        if settings.run.max_seq_length is not None:
            set_length(settings, config)

    def rows(self, settings: RunConfig, inputs: TextInputs, log: Log) -> tuple[Any, Dataset]:
        """Read pairs: rows to train on, in batches of about the same length, and rows to evaluate on."""
        run, source = settings.run, inputs.source
        names = {name: f"train_data={name!r}" for name in run.train_data}
        names = names if len(names) > 1 else dict.fromkeys(names, "train_data")
        train = [self._read([name], run.train_split, names[name], run, source) for name in run.train_data]
        log(_pairs_read(run.teacher, train[0]))
        if run.eval_data:
            name = f"eval_data={short_repr(run.eval_data)}"
            held_out = [self._read(run.eval_data, run.eval_split, name, run, source)]
        else:
            # all pairs of a query go to one side
            train, held_out = map(
                list, zip(*(apart(part, log, together=part.columns.texts[0]) for part in train), strict=True)
            )
        # the length that the rows of the longest source need
        if run.max_seq_length is None:
            config, tokenizer = inputs.config, inputs.tokenizer
            length = max(length_of_rows(part.rows, part.columns, config, tokenizer) for part in train)
            log(f"max_seq_length={length}: {what_fits(length, train[0].columns, config, tokenizer)}")
            run = replace(run, max_seq_length=length)
        self.grading = PairReader(inputs.config, inputs.tokenizer, run.row_length).grading_of(held_out)
        self.described = described_rows("scores of pairs", train, held_out, run.row_length)
        encoded = [[source.rows([part], run, None, part.argument) for part in parts] for parts in (train, held_out)]
        return self.in_batches(settings, source, *encoded)

    def _read(self, data: list[str], split: str, name: str, run: RunArguments, source: Source) -> ReadRows:
        (rows,) = source.documents(data, split, name.partition("=")[0])
        texts = [column for column in source.columns if column]
        return pairs_in(rows, texts=texts, label_column=run.label_column, argument=name, least=LEAST_ROWS)

    def trainer(self, settings: RunConfig, log: Log, **how: Any) -> Any:
        """As [`StudentRun.trainer`], with what labels measure."""
        trainer = super().trainer(settings, log, **how)
        trainer.rows_facts = self.described
        if self.grading is not None:
            trainer.gradings = [(trainer.eval_dataset, self.grading)]
        return trainer

    def source(self, settings: RunConfig) -> Source:
        """Load a teacher."""
        run = settings.run
        columns = run.text_column or ",".join(pair_in(_column_names(vars(run))))
        return reranking_source(run.teacher, columns or None, settings.training.hub_token)


def _pairs_read(teacher: str, pairs: ReadRows) -> str:
    """What was understood of a teacher, which may be another kind, and of its rows."""
    columns, rows = pairs.columns, pairs.rows
    others = [name for name in rows.column_names if name not in columns.texts]
    labels = f" (if there are some in {join_some(others)}: method=reranker and label_column)" if others else ""
    if columns.labels:
        labels = ", which the order is measured by"
    return (
        f"{teacher} scores pairs of texts: a reranker (if it is a regression: method=homodistil); rows: "
        f"{columns.describe()}{labels}"
    )


def _column_names(given: Mapping[str, Any]) -> list[str]:
    """Columns of local rows; none where they can't be read, which is told later."""
    sources = given.get("train_data") or []
    sources = [sources] if isinstance(sources, str) else sources  # as JSON may have it
    if not all(map(os.path.exists, sources)):
        return []
    keep_datasets_here()
    try:
        return load_rows(sources, split=given.get("train_split") or "train").column_names
    except (OSError, ValueError):
        return []
