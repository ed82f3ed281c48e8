"""A model, text and a size of vocabulary → the tokens that stay, their cost, and a folder with the smaller model.

`vocabulary/` chooses the tokens and takes the others out of model and tokenizer.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import ModelCardData
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from ..data.blocks import TextPacker
from ..data.corpus import load_text
from ..data.read_line import columns_words, read_line
from ..data.sources import local_files
from ..data.triplets import as_pairs
from ..embedding.folder import write_model
from ..embedding.model import EmbeddingModel, encoder_config, load_embedding_model, model_folder, student_modules
from ..export.card import code_span, fill_card, run_texts
from ..export.export_folder import check_output, save_model, written_aside
from ..export.facts import CARD_FILE, TRIMMING_FILE, file_facts, section_of
from ..export.hub import teacher_card
from ..export.nested import NESTED_FILE
from ..files.caches import keep_datasets_here
from ..files.messages import short_repr
from ..files.provenance import public_name, version_facts
from ..files.run_names import TRIMMED_FOLDER
from ..files.strict_json import read_json_object, write_json
from ..models.architectures import architecture_of
from ..models.cost import planned_facts
from ..models.loading import MODULES_FILE, load_encoder, load_encoder_config
from ..models.tokenizers import check_tokenizer, tokenizer_of_run
from ..tables import aligned_lines
from ..tasks.columns import found_rows, listed_columns
from ..tasks.encoding import texts_of
from ..tasks.kinds import MASKED_WORDS, VALUES, task_kind_of
from ..tasks.reading import load_rows
from ..training.run_folder import check_free, check_same_identity, existing_files, forget_earlier_run
from ..vocabulary.selection import Vocabulary, count_tokens, select
from ..vocabulary.tokenizer_file import fallback_of, spare_characters
from ..vocabulary.trimming import candidates, tokenizer_content, trim_tokenizer, trim_vocabulary, trimmed_config
from .kinds import TASK_RUN, method_of_model, run_kind_named, run_kind_of
from .settings import Log, RunConfig

_NUM_SAMPLES = 1000  # documents that are tokenized both ways


@dataclass(frozen=True)
class TrimSource:
    """The sources of a trimmed model.

    Args:
        model: folder or Hub name of a model of a known architecture.
        vocabulary: the size or share to keep, see [`Vocabulary`].
        text: files, folders or Hub data sets whose tokens are counted.
        text_column: column with the text.
        split: of a Hub data set or folder.
        revision: of the model on the Hub.
        tokenizer: folder or Hub name; default: the model's.
        token: of the Hub.
        is_task: whether the text is that of a task's rows, whose columns follow from the model.
    """

    model: str
    vocabulary: str
    text: Sequence[str]
    text_column: str | None = None
    split: str = "train"
    revision: str | None = None
    tokenizer: str | None = None
    token: str | None = None
    is_task: bool = False

    def identity(self) -> dict[str, Any]:
        """What decides on the result, for its record: names without this machine's paths, and a digest of all."""
        settings = {"text_column": self.text_column, "split": self.split, "revision": self.revision}
        # a path may be written in several ways
        sources = [self.model, *([] if self.tokenizer is None else [self.tokenizer]), *self.text]
        places = [str(Path(name).absolute()) if Path(name).exists() else name for name in sources]
        digest = hashlib.sha256(json.dumps([places, self.vocabulary, settings, self.is_task]).encode()).hexdigest()
        names = {"model": public_name(self.model), "vocabulary": public_name(self.vocabulary)}
        return names | {"text": [public_name(source) for source in self.text], **settings, "sources_sha256": digest}


@dataclass(frozen=True)
class TrimPlan:
    """The tokens that stay and their cost, before any weight is read.

    Args:
        config: of the model before.
        tokenizer: of the model before.
        kept: ids that stay, ascending.
        facts: `coverage`, share of the text's tokens that stay; `growth`, the text's relative increase in tokens;
            `before` and `after`: tokens, parameters and bytes; `num_characters`, single characters that go because
            the text has none of them, and `fallback`, what they become: `bytes` or the unknown token; `sizes`: the
            same for other sizes, where they were asked for.
        spare: the single characters that the text doesn't have.
        whole: the model with its weights, where it is one of sentence-transformers.
    """

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    kept: list[int]
    facts: dict[str, Any]
    spare: set[int] = field(default_factory=set)
    whole: EmbeddingModel | None = None

    @property
    def trimmed_config(self) -> PreTrainedConfig:
        """The configuration of the model with the tokens that stay."""
        return trimmed_config(self.config, self.kept)


def plan_trimming(source: TrimSource, log: Log, *, sizes: Sequence[str] = ()) -> TrimPlan:
    """Count tokens, choose the tokens that stay, and measure how the text changes.

    No weights are read but those of a model of sentence-transformers.

    Args:
        source: the sources of the trimmed model.
        log: takes a line on what was read.
        sizes: other vocabularies to describe, such as `coverage=0.99`; those that are out of reach are left out.

    Raises:
        ValueError: a value of the source can't be used.
        OSError: a file can't be read.
    """
    wanted = Vocabulary.parse(source.vocabulary)
    if not source.text:
        raise ValueError("text is not set; name the text whose tokens are counted: files, folders or Hub data sets")
    config, tokenizer, whole = _opened(source)
    check_tokenizer(tokenizer, config)
    ids, required, needs = candidates(tokenizer, config)
    of_prompts: set[int] = set()
    if whole is not None and whole.settings.prompts:  # they stand before every text
        prompts = whole.settings.prompts.values()
        lowered = [prompt.lower() if whole.settings.lowers else prompt for prompt in prompts]
        of_prompts = {token for row in tokenizer(lowered)["input_ids"] for token in row}
    required |= of_prompts
    content = tokenizer_content(tokenizer)
    # before any text is read all single characters but those of prompts may be spare: the least that has to stay
    unread = np.zeros(max(ids.values()) + 1, dtype=np.int64)
    always = required - spare_characters(content, of_prompts)
    select(wanted, ids, always, needs, unread)  # refuses an impossible size before any text is read
    keep_datasets_here()
    documents = _documents(source, config)
    log(read_line({"to count tokens in": documents}, documents.info.description))
    if whole is not None and whole.settings.lowers:
        documents = documents.map(lambda row: {"text": (row["text"] or "").lower()})
    counts = count_tokens(documents, tokenizer)
    # characters that neither the text nor a prompt has need not stay
    spare = spare_characters(content, of_prompts.union(np.flatnonzero(counts).tolist()))
    required -= spare

    def described(vocabulary: Vocabulary) -> tuple[list[int], dict[str, Any]]:
        chosen = select(vocabulary, ids, required, needs, counts)
        trimmed, kept = trim_tokenizer(tokenizer, config, chosen, spare=spare)
        after = {"num_tokens": len(kept)} | _costs(trimmed_config(config, kept), config.architectures[0])
        # documents at equal distances; unique, as two may be rounded to one
        sample = documents.select(np.unique(np.linspace(0, len(documents) - 1, _NUM_SAMPLES).astype(int)))
        texts = sample["text"][:]
        before, now = (len(TextPacker(one, 0, "text").encode(texts)) for one in (tokenizer, trimmed))
        coverage = float(counts[kept].sum() / counts.sum())
        return kept, {"coverage": coverage, "growth": now / max(before, 1) - 1, "after": after}

    kept, facts = described(wanted)
    facts["before"] = {"num_tokens": config.vocab_size} | _costs(config, config.architectures[0])
    facts |= {"num_characters": len(spare.difference(kept)), "fallback": fallback_of(content) if spare else None}
    if sizes:
        facts["sizes"] = {}
        for size in sizes:
            with suppress(ValueError):  # it leaves no room for the tokens that always stay
                facts["sizes"][size] = described(Vocabulary.parse(size))[1]
    return TrimPlan(config, tokenizer, kept, facts, spare, whole)


def _documents(source: TrimSource, config: PreTrainedConfig) -> Dataset:
    """The text: of a task's rows all columns that its model reads, else one column."""
    if source.is_task or len(listed_columns(source.text_column or None)) > 1:
        return _texts_of_rows(source, config)
    are_texts = partial(load_text, source.text, text_column=source.text_column, split=source.split, argument="text")
    files = (file for name in source.text for file in local_files(name, source.split, f"text={name!r}"))
    is_named = task_kind_of(config) == MASKED_WORDS or source.text_column is not None
    if is_named or any(file.suffix.lower() == ".txt" for file in files):
        return are_texts()
    try:
        return _texts_of_rows(source, config)
    except ValueError as error:
        try:  # a corpus, of whatever kind
            return are_texts()
        except ValueError:
            raise error from None


def _texts_of_rows(source: TrimSource, config: PreTrainedConfig) -> Dataset:
    rows, kind = load_rows(source.text, split=source.split, argument="text"), task_kind_of(config)
    texts = listed_columns(source.text_column or None)
    if kind == VALUES and config.num_labels == 1 and not texts:  # a reranker's queries have several texts
        rows, _ = as_pairs(rows, "text")
    part = found_rows(rows, config, kind, text_columns=texts, argument="text")
    documents = texts_of(part)
    documents.info.description = columns_words(part.columns.texts, rows.column_names)
    return documents


_UNTRIMMED = {
    "sparse": "a sparse encoder, whose vectors have a channel for each word: with fewer it would have another index",
    "multi_vector": "a multi-vector encoder, which is trimmed nowhere",
}
"""Method of models that keep their vocabulary → what they are."""


def _opened(source: TrimSource) -> tuple[PreTrainedConfig, PreTrainedTokenizerBase, EmbeddingModel | None]:
    if (Path(source.model) / NESTED_FILE).is_file():
        raise ValueError(
            f"model={source.model!r} is a nested student, whose smaller sizes would be lost: write one of its sizes "
            "by homodistil export --member first, and trim that"
        )
    method = method_of_model(source.model, token=source.token)
    if method in _UNTRIMMED:
        raise ValueError(f"model={source.model!r} is {_UNTRIMMED[method]}; distil it with all of its words")
    if method == "embedding":
        whole = load_embedding_model(source.model, token=source.token)
        whole.encoder.config.architectures = [type(whole.encoder).__name__]
        label = f"model={source.model!r}"  # loaded in float32, and written in the type of its files
        folder = model_folder(source.model, label, token=source.token)
        first = folder / student_modules(folder / MODULES_FILE, label)[0][1]
        whole.encoder.config.dtype = encoder_config(first, label).dtype
        for name, value in (("tokenizer", source.tokenizer), ("teacher_revision", source.revision)):
            if value is not None:
                raise ValueError(f"{name}={short_repr(value)} has no place with method={method!r}; leave it out")
        return whole.encoder.config, whole.tokenizer, whole
    config = load_encoder_config(source.model, revision=source.revision, token=source.token, argument="model")
    tokenizer = tokenizer_of_run(source.model, source.tokenizer, revision=source.revision, token=source.token)
    return config, tokenizer, None


def _costs(config: PreTrainedConfig, class_name: str) -> dict[str, Any]:
    num_parameters = planned_facts(config, class_name)["num_parameters"]
    return {"num_parameters": num_parameters, "size_bytes": _saved_dtype(config).itemsize * num_parameters}


def _saved_dtype(config: PreTrainedConfig) -> torch.dtype:
    """The type of a model's files; float32 where its configuration has none."""
    dtype = config.dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def trim_to_folder(
    source: TrimSource,
    output: str | Path,
    log: Log,
    *,
    overwrite: bool = False,
    begin: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Write a model with fewer tokens, its tokenizer and a card.

    Args:
        source: the sources of the model.
        output: folder to write, which `from_pretrained` reads.
        log: takes lines for the user.
        overwrite: replace an earlier export there.
        begin: called when nothing can be refused any more.

    Returns:
        The content of its `trimming.json`.

    Raises:
        ValueError: a value of the source can't be used, or the folder isn't free.
        OSError: a file can't be read or written.
    """
    target = check_output(output, overwrite=overwrite, argument="output")
    plan = plan_trimming(source, log)
    log(format_trimming(plan.facts))
    if plan.whole:
        model = plan.whole.encoder
    else:
        revision, token = source.revision, source.token
        model = load_encoder(source.model, config=plan.config, revision=revision, token=token, argument="model")
    dtype = _saved_dtype(plan.config)
    trimmed, tokenizer = trim_vocabulary(model, plan.tokenizer, plan.kept, spare=plan.spare)
    if begin is not None:
        begin()
    trimmed.to(dtype)  # computed in float32, and written as it was
    facts = {"trimming": plan.facts, "source": source.identity(), "versions": version_facts()}
    with written_aside(target, overwrite=overwrite) as aside:
        if plan.whole:
            write_model(replace(plan.whole, encoder=trimmed, tokenizer=tokenizer), aside)
        else:
            code = architecture_of(trimmed.config).modeling_files if getattr(trimmed.config, "auto_map", None) else ()
            save_model(trimmed, aside, tokenizer, code=code)
        (aside / CARD_FILE).write_text(_card(source.model, type(trimmed).__name__, plan.facts), encoding="utf-8")
        facts["files"] = file_facts(aside)
        write_json(aside / TRIMMING_FILE, facts)
    return facts


def format_trimming(facts: Mapping[str, Any]) -> str:
    """Describe in lines how much of vocabulary, text and model stays."""
    before, after = facts["before"], facts["after"]
    saved = before["size_bytes"] - after["size_bytes"]
    characters = ""
    if facts.get("num_characters"):
        characters = (
            f"\n{facts['num_characters']:,} single characters go that the text never has: in other text they become "
            f"{facts['fallback']}"
        )
    return (
        f"{after['num_tokens']:,} of {before['num_tokens']:,} tokens stay: {facts['coverage']:.2%} of the text's "
        f"tokens are among them, and it becomes {facts['growth']:.1%} longer\n"
        f"{after['num_parameters']:,} of {before['num_parameters']:,} parameters stay, {saved / 1e6:,.1f} MB less"
        f"{characters}"
    )


def format_sizes(sizes: Mapping[str, Mapping[str, Any]]) -> str:
    """Lay out what several vocabularies would leave of the teacher and make of the text."""
    table = [["vocabulary", "tokens", "of the text's tokens", "longer text", "parameters", "MB"]]
    for name, left in sizes.items():
        after = left["after"]
        shares = [f"{left['coverage']:.2%}", f"{left['growth']:+.1%}"]
        costs = [f"{after['num_parameters']:,}", f"{after['size_bytes'] / 1e6:,.1f}"]
        table.append([name, f"{after['num_tokens']:,}", *shares, *costs])
    return "\n".join(aligned_lines(table))


def _card(model: str, class_name: str, facts: Mapping[str, Any]) -> str:
    stated = teacher_card(model)
    name, texts = stated["name"], run_texts({"teacher": stated})
    return fill_card(
        ModelCardData(
            library_name="transformers",
            base_model=stated["hub_id"],
            license=stated["licence"],
            tags=["vocabulary-trimming"],
        ),
        version_facts(),
        title=f"{name.rpartition('/')[2]}, {facts['after']['num_tokens']:,} tokens",
        summary=f"`{class_name}`, made from {code_span(name)} by leaving out tokens of its vocabulary; nothing was "
        "trained. Text made only of kept tokens is tokenized and scored as before.",
        comparison=f"{format_trimming(facts)}.",
        limits=texts["limits"],
        licence=texts["licence"],
    )


def trimmed_teacher(settings: RunConfig, log: Log) -> str:
    """Trim the teacher of a distillation as its `vocabulary` asks for, in a folder of its own below `output_dir`.

    A student of the trimmed teacher reads and predicts kept tokens alone. The trimmed teacher's probabilities are its
    softmax over the columns of kept tokens.

    Returns:
        `str`: the folder.

    Raises:
        ValueError: settings that can't be used, before anything is trained.
    """
    run, training = settings.run, settings.training
    if run.streaming:
        raise ValueError(
            f"vocabulary={short_repr(run.vocabulary)} with streaming=True: tokens are counted before a run; trim the "
            "teacher first, with homodistil trim, and name its folder as the teacher"
        )
    folder = Path(str(training.output_dir), TRIMMED_FOLDER)
    if not training.resume_from_checkpoint:
        check_free(training, existing_files(str(training.output_dir)), has_begun=folder.is_dir())
    is_task = run_kind_of(settings) is run_kind_named(TASK_RUN)
    for name in run.eval_data:  # it is read later, by the distillation
        local_files(name, run.eval_split, f"eval_data={name!r}")
    source = TrimSource(
        run.teacher,
        str(run.vocabulary),
        run.train_data,
        run.text_column,
        run.train_split,
        run.teacher_revision,
        run.tokenizer,
        training.hub_token,
        is_task,
    )
    with training.main_process_first(desc="trimming the vocabulary"):
        is_made = training.resume_from_checkpoint and (folder / TRIMMING_FILE).is_file()
        if training.process_index == 0 and is_made:
            made = section_of(read_json_object(folder / TRIMMING_FILE, TRIMMING_FILE), "source")
            check_same_identity(str(training.output_dir), made, source.identity())
        elif training.process_index == 0:
            is_new = not training.resume_from_checkpoint
            begin = partial(forget_earlier_run, str(training.output_dir)) if is_new else None
            trim_to_folder(source, folder, log, overwrite=True, begin=begin)
    return str(folder)
