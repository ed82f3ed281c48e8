"""One run of `homodistil distill`: check everything cheap, tokenize, train, evaluate, export, write the results down.

What the settings are and how training goes is told elsewhere. Nothing here prints: words for the user go to a
callable.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.blocks import check_tokenizer, repeat_stream, some_blocks, tokenize_to_blocks
from ..data.corpus import load_text
from ..export.export_folder import check_target
from ..export.facts import read_facts
from ..export.student_in_folder import RESULTS_FILE, SETTINGS_FILE, STUDENT_FOLDER
from ..files.caches import keep_datasets_here
from ..files.checkpoints import last_verified
from ..files.messages import short_repr
from ..files.provenance import version_facts
from ..files.strict_json import write_json
from ..methods.registry import method_named
from ..models.architectures import max_tokens
from ..models.loading import load_encoder, load_encoder_config
from ..models.tokenizers import load_tokenizer
from ..models.widths import WidthPlan, widths_of
from ..training.checks import check_free, check_output_dir, existing_files
from ..training.distillation_trainer import DistillationTrainer
from ..training.hub_checkpoints import check_address, is_hub_address
from ..training.learning_rate import measured_learning_rate
from ..training.run_folder import Requested, verified_checkpoint
from ..training_args import with_settings
from .config import FurtherConfig, RunConfig

Say: TypeAlias = Callable[[str], None]
Blocks: TypeAlias = Dataset | IterableDataset
FAMILY_FILE = "family.json"
"""What stands of a family in its `output_dir`: its members, and which are done."""
COSTS = ("num_parameters", "encoder_macs", "size_bytes")
_HELD_OUT_EVERY = 20  # one document in 20 …
_MAX_HELD_OUT = 2000  # … but no more than this
_HELD_OUT_OF_STREAM = 1000
_STREAM_SHUFFLE_BLOCKS = 10_000


@dataclass(frozen=True)
class Readers:
    """Who reads the text: the teacher, by its configuration, and a fitting tokenizer."""

    config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sources(Readers):
    """What is checked before any text is read: who reads it, and the widths."""

    plan: WidthPlan


def distill(settings: RunConfig, say: Say) -> dict[str, Any]:
    """Run a distillation from settings to export; on the main process `say` takes lines for the user.

    Returns:
        `dict`: what was written to `results.json`.

    Raises:
        ValueError: something about the settings, the data or the teacher can't work.
        OSError: a file or a Hub repository can't be read or written.
    """
    since = time.perf_counter()
    checkpoint = check_output_folder(settings)
    trainer = make_trainer(settings, say)
    return train_to_the_end(trainer, settings, checkpoint, since=since)


def with_teacher(settings: RunConfig, teacher: str, *, done: str) -> RunConfig:
    """The same distillation with a teacher that was made for it in its folder, by the setting that is done with."""
    run, training = settings.run, settings.training
    dropped: dict[str, Any] = dict.fromkeys(("teacher_revision", "tokenizer", done))
    given = {name: value for name, value in settings.given.items() if name not in dropped} | {"teacher": teacher}
    folder = str(training.output_dir)
    # It may have been interrupted before the distillation began.
    has_begun = bool(last_verified(folder)) or Path(folder, FAMILY_FILE).is_file()
    resume = training.resume_from_checkpoint if has_begun else None
    own = with_settings(training, resume_from_checkpoint=resume, overwrite_output_dir=True)
    members = tuple(
        replace(
            member,
            run=replace(member.run, teacher=teacher, **dropped),
            given={name: value for name, value in member.given.items() if name not in dropped} | {"teacher": teacher},
        )
        for member in settings.members
    )
    return RunConfig(replace(run, teacher=teacher, **dropped), own, given, members)


def train_to_the_end(
    trainer: DistillationTrainer, settings: RunConfig, checkpoint: Requested, *, since: float
) -> dict[str, Any]:
    """Train, evaluate, export, write `results.json`, returned on the main process, push; `since`: when it began."""
    folder = Path(settings.training.output_dir)
    if trainer.is_world_process_zero():
        write_json(folder / SETTINGS_FILE, settings.given)
    trainer.train(checkpoint)
    trainer.evaluate()
    trainer.evaluate_teacher()
    trainer.export(folder / STUDENT_FOLDER)
    results = {}
    if trainer.is_world_process_zero():
        time_s = round(time.perf_counter() - since, 1)
        results = _results(trainer, settings) | {"time_s": time_s}
        write_json(folder / RESULTS_FILE, results)
    if settings.training.push_to_hub:
        trainer.push_to_hub()  # last, as it may fail
    return results


def _results(trainer: DistillationTrainer, settings: RunConfig) -> dict[str, Any]:
    metrics = trainer.held_out_metrics
    facts = read_facts(Path(settings.training.output_dir) / STUDENT_FOLDER)
    forms = facts.get("forms")
    return {
        "method": trainer.method,
        "models": [
            {"name": name, **{cost: facts[name][cost] for cost in COSTS}}
            | {metric: found.get(metric) for metric in trainer.told_metrics}
            for name, found in (("teacher", trainer.teacher_evaluation), ("student", metrics))
        ],
        # None where the stock student has no padding.
        "compact": {cost: forms["compact"][cost] for cost in COSTS} if forms else None,
        "evaluation": metrics,
        "plan": trainer.plan.to_dict(),
        "num_steps": trainer.state.global_step,
        "versions": version_facts(),
        "settings": settings.given,
    }


def make_trainer(
    settings: RunConfig, say: Say, *, sources: Sources | None = None, start: PreTrainedModel | None = None
) -> DistillationTrainer:
    """Check a run from the cheapest to the dearest, then load teacher and text; errors as [`distill`].

    Args:
        settings: what [`parse_run`] returned.
        say: takes lines for the user.
        sources: what [`check_sources`] returned. Default: they are checked now.
        start: what the student starts as, if not as its teacher.
    """
    run, training = settings.run, settings.training
    if run.further_settings:
        raise ValueError(
            f"further_pretraining={short_repr(run.further_settings)} goes before a run of `homodistil distill` "
            "alone; do "
            "it first, and name its student/ as the teacher"
        )
    if run.vocabulary:
        raise ValueError(
            f"vocabulary={short_repr(run.vocabulary)} goes before a run of `homodistil distill` alone; trim the "
            "teacher "
            "first, with homodistil trim, and name its folder as the teacher"
        )
    training.dataloader_pin_memory &= torch.accelerator.is_available()  # torch warns otherwise
    sources, method = sources or check_sources(settings), method_named(run.method)
    method.check_possible(sources.plan, widths_of(sources.config))
    keep_datasets_here()
    with training.main_process_first(desc="reading the text"):
        train_blocks, eval_blocks = load_blocks(
            settings, sources, say if training.process_index == 0 else lambda line: None
        )
    # From what is known: looking at the first row of a stream would fill its buffer.
    if training.learning_rate is None:
        hidden_size, share = sources.config.hidden_size, method.learning_rate_share
        rate = measured_learning_rate(training, row_length=run.max_seq_length, hidden_size=hidden_size, share=share)
        training = with_settings(training, learning_rate=rate)
    teacher = load_encoder(run.teacher, config=sources.config, revision=run.teacher_revision, token=training.hub_token)
    return method(
        start or teacher,
        training,
        teacher_model=teacher if start else None,
        plan=sources.plan,
        train_dataset=train_blocks,
        eval_dataset=eval_blocks,
        processing_class=sources.tokenizer,
    )


def check_output_folder(settings: RunConfig) -> Requested:
    """What `train` is to go on with; its files are checked here, before any text is read."""
    training = settings.training
    output_dir, resume = training.output_dir, training.resume_from_checkpoint
    check_output_dir(output_dir)
    check_target(Path(output_dir) / STUDENT_FOLDER, overwrite=True)
    if not resume:
        check_free(training, existing_files(output_dir))
        return None
    if is_hub_address(resume):
        check_address(str(resume), token=training.hub_token)
        return resume
    return verified_checkpoint(resume, output_dir)


def check_sources(settings: RunConfig) -> Sources:
    """Check plan, tokenizer and lengths against the teacher's configuration; its weights are not touched.

    Errors are those that [`distill`] would raise before it reads any text.
    """
    readers = check_readers(settings)
    plan = method_named(settings.run.method).plan_of(settings.training, readers.config)
    return Sources(readers.config, readers.tokenizer, plan)


def check_readers(settings: RunConfig | FurtherConfig) -> Readers:
    """Check tokenizer and lengths against the teacher's configuration; the part of [`check_sources`] of any method."""
    run, training = settings.run, settings.training
    if run.streaming and training.max_steps <= 0:
        raise ValueError(
            f"streaming={run.streaming} with max_steps={training.max_steps}: a stream has no length; set max_steps"
        )
    config = load_encoder_config(run.teacher, revision=run.teacher_revision, token=training.hub_token)
    class_name = (config.architectures or [""])[0]
    if "ForMaskedLM" not in class_name and "ForPreTraining" not in class_name:
        raise ValueError(
            f"teacher={run.teacher!r} is a {class_name}; this command distils masked-LM teachers. For a task "
            "model use HomoDistilTrainer as in examples/distill_task_model.py"
        )
    if run.max_seq_length > (limit := max_tokens(config)):
        raise ValueError(
            f"max_seq_length={run.max_seq_length} is over the teacher's positions={limit}; nearest valid: {limit}"
        )
    revision = run.teacher_revision if run.tokenizer is None else None
    tokenizer = load_tokenizer(run.tokenizer or run.teacher, revision=revision, token=training.hub_token)
    check_tokenizer(tokenizer, config)
    return Readers(config, tokenizer)


def load_blocks(settings: RunConfig | FurtherConfig, readers: Readers, say: Say) -> tuple[Blocks, Dataset]:
    """Read and tokenize the text: blocks to train on, and those to evaluate on."""
    run = settings.run
    eval_documents = None
    if run.eval_data:
        eval_documents = load_text(
            run.eval_data, text_column=run.text_column, split=run.eval_split, argument="eval_data"
        )
    documents = load_text(run.train_data, text_column=run.text_column, split=run.train_split, streaming=run.streaming)
    if eval_documents is None:
        documents, eval_documents = hold_out(documents, say)
    blocks = _tokenized(documents, settings, readers, argument="train_data")
    if run.streaming:
        blocks = repeat_stream(blocks).shuffle(seed=settings.training.seed, buffer_size=_STREAM_SHUFFLE_BLOCKS)
    return blocks, some_blocks(
        _tokenized(eval_documents, settings, readers, argument="eval_data"), run.max_eval_blocks
    )


def hold_out(documents: Blocks, say: Say) -> tuple[Blocks, Blocks]:
    """Split documents into those to train on and those to evaluate on, by position and so always alike."""
    if isinstance(documents, IterableDataset):
        say(f"eval_data is not set: the first {_HELD_OUT_OF_STREAM:,} documents of train_data are held out")
        return documents.skip(_HELD_OUT_OF_STREAM), documents.take(_HELD_OUT_OF_STREAM)
    num_documents = len(documents)
    if num_documents < 2:
        raise ValueError(
            f"eval_data is not set and train_data has {num_documents} document, of which none can be held out; "
            "name eval_data"
        )
    every = min(max(_HELD_OUT_EVERY, math.ceil(num_documents / _MAX_HELD_OUT)), num_documents)
    held_out = range(every - 1, num_documents, every)
    say(f"eval_data is not set: {len(held_out):,} of {num_documents:,} documents of train_data are held out")
    kept = set(range(num_documents)) - set(held_out)
    return documents.select(sorted(kept)), documents.select(held_out)


def _tokenized(documents: Blocks, settings: RunConfig | FurtherConfig, readers: Readers, *, argument: str) -> Blocks:
    run = settings.run
    try:
        return tokenize_to_blocks(
            documents,
            readers.tokenizer,
            max_seq_length=run.max_seq_length,
            num_proc=run.preprocessing_num_workers,
            max_positions=max_tokens(readers.config),
        )
    except ValueError as error:
        source = getattr(run, argument) or run.train_data
        raise ValueError(f"{argument}={source}: {error}") from error
