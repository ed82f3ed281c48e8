"""The kind of run of HomoDistil and of every baseline: a masked-LM teacher and text in blocks."""

import shlex
from collections.abc import Callable, Mapping
from functools import partial
from textwrap import indent
from typing import Any, TypeAlias

from datasets import Dataset, IterableDataset
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..data.blocks import repeat_stream, some_blocks, tokenize_to_blocks
from ..data.corpus import hold_out, load_text
from ..data.read_line import read_line
from ..files.messages import short_repr
from ..files.run_names import NESTED, TABLES
from ..models.architectures import max_tokens
from ..models.loading import load_encoder, load_encoder_config
from ..models.tokenizers import check_tokenizer, fitted_length, tokenizer_of_run
from ..tables import aligned_lines, format_table
from ..training.learning_rate import measured_learning_rate, row_length_of
from ..training_args import with_settings
from .kinds import Rows, RunInputs, StudentKind, trainer_named
from .settings import Log, RunConfig

Blocks: TypeAlias = Dataset | IterableDataset
_STREAM_SHUFFLE_BLOCKS = 10_000


def read_rows(settings: RunConfig, inputs: RunInputs, log: Log) -> Rows:
    """Read and tokenize the text: blocks to train on, and those to evaluate on.

    Raises:
        ValueError: no text, or too little of it.
        OSError: a file or a Hub repository can't be read.
    """
    run, tokenizer = settings.run, inputs.tokenizer
    column = f" in {run.text_column!r}" if run.text_column else ""
    form = f"blocks of {run.row_length}" if run.packing else f"a row a document, of at most {run.row_length}"
    log(f"{run.teacher} predicts masked words; the text{column} becomes {form} tokens")

    def tokenized(documents: Blocks, argument: str) -> Blocks:
        try:
            return tokenize_to_blocks(
                documents,
                tokenizer,
                max_seq_length=run.row_length,
                num_proc=run.preprocessing_num_workers,
                max_positions=max_tokens(inputs.config),
                packing=run.packing,
            )
        except ValueError as error:
            given = getattr(run, argument)
            label = f"{argument}={given}" if given else f"the held-out part of train_data={run.train_data}"
            raise ValueError(f"{label}: {error}{'' if given else ', or name eval_data'}") from error

    read = partial(load_text, text_column=run.text_column, line_by_line=run.line_by_line)
    eval_documents = read(run.eval_data, split=run.eval_split, argument="eval_data") if run.eval_data else None
    documents = read(run.train_data, split=run.train_split, streaming=run.streaming)
    if eval_documents is None:
        documents, eval_documents, held_out = hold_out(documents)
        log(f"eval_data is not set: {held_out} of train_data are held out")
    blocks, held_out_blocks = tokenized(documents, "train_data"), tokenized(eval_documents, "eval_data")
    texts = {"tokenizer": tokenizer, "documents": eval_documents if run.streaming else documents}
    parts = {"to train on": blocks, "held out": held_out_blocks}
    log(read_line(parts, documents.info.description, **texts if run.packing else {"tokenizer": tokenizer}))
    if run.streaming:
        # repeated first and then shuffled, so that each pass has an order of its own
        blocks = repeat_stream(blocks).shuffle(seed=settings.training.seed, buffer_size=_STREAM_SHUFFLE_BLOCKS)
    return Rows(blocks, some_blocks(held_out_blocks, run.max_eval_blocks))


def training_of(settings: RunConfig, inputs: RunInputs, train: Any) -> Any:
    """Set the learning rate: of blocks from settings alone, as the first row of a stream would fill its buffer."""
    training, run = settings.training, settings.run
    if training.learning_rate is not None:
        return training
    rate = measured_learning_rate(
        training,
        row_length=run.row_length if run.packing or run.streaming else row_length_of(train),
        hidden_size=inputs.config.hidden_size,
        share=trainer_named(settings.run.method).learning_rate_share,
    )
    return with_settings(training, learning_rate=rate)


def load_models(settings: RunConfig, inputs: RunInputs) -> tuple[None, PreTrainedModel]:
    """Load the teacher's weights; the student starts as their copy."""
    run, token = settings.run, settings.training.hub_token
    return None, load_encoder(run.teacher, config=inputs.config, revision=run.teacher_revision, token=token)


def summary_with(
    loading_lines: Callable[[str, Mapping[str, Any]], str], results: Mapping[str, Any], output_dir: str
) -> str:
    """Describe how a run ended, with tables that it left; `loading_lines`: folder of a student, results → Python."""
    folder = output_dir.rstrip("/")
    students = [f"{folder}/{member['folder']}/student" for member in results.get("members", ())]
    others = "".join(f"\n  {student}" for student in students[:-1])
    student = students[-1] if students else f"{folder}/student"
    compact = results.get("compact")
    padding = ""
    if compact:
        costs = f"{compact['num_parameters']:,} parameters, {compact['encoder_macs']:,} encoder MACs"
        names = [shlex.quote(name) for name in (folder, f"{folder}-compact")]
        command = f"homodistil export {names[0]} --format compact --output {names[1]}"
        padding = f"\nThe student is padded to its stock class; without padding ({costs}):\n\n  {command}\n"
    text = f"""
{format_table(results["models"])}
{padding}
{results["num_steps"]:,} steps, {results["time_s"]:,.0f} s; see {folder}/results.json. The student:

{indent(loading_lines(student, results), "  ")}"""
    if members := [one["name"] for one in results.get(NESTED, ())]:
        words = f"homodistil export {shlex.quote(folder)} --member {members[-1]} --output {shlex.quote(folder)}-small"
        text += f"\n\nIt is the largest of {len(members)} sizes in this folder; a smaller one alone:\n\n  {words}"
    text += f"\n\nThe others, loaded alike:\n{others}" if others else ""
    for table in results.get(TABLES, ()):
        text += "\n\n" + "\n".join([table["title"], *aligned_lines([table["headings"], *table["rows"]])])
    return text


def _loading_lines(student: str, results: Mapping[str, Any]) -> str:
    return (
        "from transformers import AutoModelForMaskedLM, AutoTokenizer\n"
        f"model = AutoModelForMaskedLM.from_pretrained({student!r})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({student!r})"
    )


def check_inputs(settings: RunConfig) -> RunInputs:
    """Read a masked-LM teacher's configuration and a fitting tokenizer; its weights are not touched.

    Raises:
        ValueError: another kind of model, a tokenizer that doesn't fit, or blocks longer than the teacher's positions.
        OSError: one of them can't be read.
    """
    run, training = settings.run, settings.training
    check_stream(settings)
    config = load_encoder_config(run.teacher, revision=run.teacher_revision, token=training.hub_token)
    class_name = (config.architectures or [""])[0]
    if "ForMaskedLM" not in class_name and "ForPreTraining" not in class_name:
        raise ValueError(
            f"teacher={run.teacher!r} is a {class_name}; expected one that predicts masked words, such as the "
            "model that it was fine-tuned from"
        )
    for name in ("label_column", "start"):  # known only now: a task model of the Hub has the same settings
        if (value := getattr(run, name)) is not None:
            raise ValueError(
                f"{name}={short_repr(value)} has no place with teacher={run.teacher!r}, which predicts masked words; "
                "leave it out"
            )
    tokenizer = tokenizer_of_run(run.teacher, run.tokenizer, revision=run.teacher_revision, token=training.hub_token)
    check_tokenizer(tokenizer, config)
    set_length(settings, config, tokenizer)
    return RunInputs(config, tokenizer)


def check_stream(settings: RunConfig) -> None:
    """Refuse, by a ValueError, a stream without a number of steps."""
    if settings.run.streaming and (num_steps := settings.training.max_steps) <= 0:
        raise ValueError(f"streaming=True with max_steps={num_steps}: a stream has no length; set max_steps")


def set_length(
    settings: RunConfig,
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase | None = None,
    allowed: int | None = None,
    owner: str = "teacher",
) -> None:
    """Lower a default length of rows to what a teacher reads, in the settings; a ValueError refuses a given one."""
    run, name = settings.run, "max_seq_length"
    how: dict[str, Any] = {"owner": owner, "tokenizer": tokenizer, "allowed": allowed}
    length = fitted_length(run.max_seq_length, config, argument=name, default=run.row_length, **how)
    if length != run.row_length:
        run.max_seq_length = settings.given[name] = length


KIND = StudentKind(
    inputs=check_inputs,
    rows=read_rows,
    training=training_of,
    models=load_models,
    summary=partial(summary_with, _loading_lines),
    unused=("train_prompts", "train_weights"),
)
