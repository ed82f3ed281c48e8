"""What a run of vectors or of pairs learns from, and how its rows are read: a model, or files of vectors."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar

from transformers import PreTrainedTokenizerBase

from ..data.corpus import load_text
from ..embedding.model import EmbeddingModel
from ..embedding.reading import SETTINGS_FILE, load_embedding_model
from ..embedding.reranker import PairReader, check_one_score
from ..embedding.texts import some_paragraphs, tokenize_texts
from ..embedding.vectors import TeacherVectors, learner_of, load_teacher_vectors, tokenize_vectors
from ..files.messages import short_repr
from ..models.loading import load_encoder
from ..models.tokenizers import COPY, load_tokenizer, without_unused_segments
from ..tasks.reading import load_rows
from .settings import RunArguments


@dataclass(frozen=True)
class Source:
    """A teacher, and how its text is read.

    Args:
        model: as the trainer takes it.
        encoder: the transformers model in it.
        tokenizer: of the encoder.
        columns: of the text.
        rows: documents, a data set a column, the settings of the run, the name of a prompt, what the user calls the
            documents → rows.
    """

    model: Any
    encoder: Any
    tokenizer: PreTrainedTokenizerBase
    columns: tuple[str | None, ...]
    rows: Callable[[list[Any], RunArguments, str | None, str], Any]

    train_setting: ClassVar[str] = "train_data"
    """The setting that names what is trained on."""

    def documents(self, data: list[str], split: str, argument: str, *, is_stream: bool = False) -> list[Any]:
        """Read files: a data set for each column."""
        settings: dict[str, Any] = {"split": split, "argument": argument, "streaming": is_stream}
        return [load_text(data, text_column=name, **settings) for name in self.columns]

    def some_texts(self, documents: Any, most: int) -> list[str]:
        """Some texts of documents, as the model reads them."""
        return some_paragraphs(documents, most)

    def encoder_of(self, data: list[str], split: str) -> Any:
        """The teacher, as an encoder of held-out texts."""
        return self.model


class VectorsSource(Source):
    """Files of texts and of the vectors that a teacher gave them; `model` is what the student starts from."""

    train_setting = "teacher_vectors"

    def documents(self, data: list[str], split: str, argument: str, *, is_stream: bool = False) -> list[Any]:
        """Read files: one data set, with a column of vectors."""
        found, target = self._read(data, split, argument), self.model.target
        if found.dimension != target.dimension:
            raise ValueError(
                f"{argument}={short_repr(data)} has vectors of {found.dimension} channels, teacher_vectors of "
                f"{target.dimension}; name vectors of one model"
            )
        return [found.documents]

    def some_texts(self, documents: Any, most: int) -> list[str]:
        """The first texts, whole."""
        texts: list[str] = documents["text"][:most]
        return texts

    def encoder_of(self, data: list[str], split: str) -> Any:
        """The vectors in these files; without files, those that are trained on."""
        return self._read(data, split, "eval_data") if data else self.model.target

    def _read(self, data: list[str], split: str, argument: str) -> TeacherVectors:
        settings: dict[str, Any] = {"text_column": self.columns[0], "similarity": self.model.target.similarity}
        return load_teacher_vectors(data, split=split, argument=argument, **settings)


class PairsSource(Source):
    """Rows of two texts, and maybe labels: [`ReadRows`] become rows."""

    def documents(self, data: list[str], split: str, argument: str, *, is_stream: bool = False) -> list[Any]:
        """Read files: one data set."""
        return [load_rows(data, split=split, argument=argument)]


@lru_cache(maxsize=1)  # the members of a chain have one teacher
def embedding_source(name: str, text_column: str | None, token: str | None) -> Source:
    """Load a model of sentence-transformers, by folder or Hub name; text comes from a column."""
    model = load_embedding_model(name, token=token)

    def rows(parts: list[Any], run: RunArguments, prompt: str | None, argument: str) -> Any:
        # A source whose prompt is named may be one of queries, or of titles.
        least_characters = None if prompt is None else 1
        return tokenize_texts(
            parts[0], **_row_settings(model, run, prompt), least_characters=least_characters, argument=argument
        )

    return Source(model, model.encoder, model.tokenizer, (text_column,), rows)


def _row_settings(model: EmbeddingModel, run: RunArguments, prompt: str | None) -> dict[str, Any]:
    """How a model's texts become rows, the prompt of a name before each; a ValueError where it has no such prompt."""
    if prompt and prompt not in model.settings.prompts:
        raise ValueError(_unknown_prompt(prompt, model.settings.prompts))
    return {
        "tokenizer": model.tokenizer,
        "max_length": min(run.row_length, model.settings.max_seq_length),
        "prepare": partial(model.prepared, prompt_name=prompt),
        "num_proc": run.preprocessing_num_workers,
    }


def _unknown_prompt(prompt: str, known: Mapping[str, str]) -> str:
    if known:
        return f"train_prompts has {prompt!r}, but the teacher's prompts are {', '.join(known)}; name one of those"
    # an example that would work: what was named becomes a prompt, its words the name
    name = re.sub(r"\W+", " ", prompt).strip() or "query"
    text = json.dumps({"prompts": {name: prompt if name != prompt else f"{prompt}: "}}, ensure_ascii=False)
    return (
        f"train_prompts has {prompt!r}, but the teacher's prompts are none; leave it out, or give the texts "
        f"that it was trained with in its {SETTINGS_FILE}, such as {text}, and name {name!r}"
    )


@lru_cache(maxsize=1)
def vectors_source(
    files: tuple[str, ...], start: str, of_files: tuple[str | None, str, str], token: str | None
) -> VectorsSource:
    """Read files of vectors, by their column of texts, split and similarity, and load what the student starts from."""
    column, split, similarity = of_files
    target = load_teacher_vectors(files, text_column=column, split=split, similarity=similarity)
    model = learner_of(start, target, token=token)

    def rows(parts: list[Any], run: RunArguments, prompt: str | None, argument: str) -> Any:
        return tokenize_vectors(parts[0], **_row_settings(model, run, prompt), argument=argument)

    return VectorsSource(model, model.encoder, model.tokenizer, (column,), rows)


@lru_cache(maxsize=1)
def reranking_source(name: str, text_column: str | None, token: str | None) -> Source:
    """Load a reranker, by folder or Hub name; pairs come from two columns, named with a comma."""
    columns = tuple(column.strip() for column in (text_column or "").split(","))
    if len(columns) != 2 or not all(columns):
        raise ValueError(
            f"text_column={short_repr(text_column)}: a reranker reads pairs; name two columns, such as "
            f"'question,passage'. teacher={name!r} has one label, as rerankers do: if it is a regression, set "
            "method=homodistil, and label_column where rows have labels"
        )
    model = load_encoder(name, token=token)
    check_one_score(model, f"teacher={name!r}")
    tokenizer = load_tokenizer(name, token=token, argument="teacher", remedy=COPY)
    without_unused_segments(tokenizer, model.config)

    def rows(parts: list[Any], run: RunArguments, prompt: str | None, argument: str) -> Any:
        (pairs,) = parts
        return PairReader(model.config, tokenizer, run.row_length, run.preprocessing_num_workers).tokenized(pairs)

    return PairsSource(model, model, tokenizer, columns, rows)
