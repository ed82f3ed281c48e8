"""`evaluate_discrepancy`: a masked-LM student against its teacher on held-out text, in float32; with its settings.

Every model sees the same blocks and masks: both depend on text, tokenizer, seed and row only. The sums are those of
the trainer's evaluation, `distillation/discrepancy.py`.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..data.blocks import some_blocks, tokenize_to_blocks
from ..data.corpus import load_text
from ..data.masking import EVALUATED_PROBABILITY, MaskedLMCollator, unmaskable_ids
from ..data.read_line import read_line
from ..distillation.task_scores import TaskMeter
from ..distillation.tasks import task_of
from ..distillation.teacher import FrozenTeacher
from ..files.caches import keep_datasets_here
from ..files.provenance import public_name
from ..files.settings import ROW_LENGTH, check_fields, describe_settings, make_tuples, setting
from ..models.architectures import max_tokens
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.conversion import to_student
from ..models.equality import weights_digest
from ..models.heads import fastest_device
from ..models.loading import load_encoder
from ..models.tokenizers import check_words_of_model, fitted_length
from .evaluated_model import (
    DISCREPANCY,
    DISCREPANCY_METRICS,
    EvaluatedModel,
    load_model,
    model_in,
    model_name,
    recorded_teacher,
    results_claimed,
)
from .fine_tuning import settings_from

logger = logging.getLogger(__name__)

_BATCH_SIZE = 32
_OF_TEACHER = ("kl", "agreement")


@dataclass(frozen=True)
@describe_settings
class DiscrepancySettings:
    """Settings of [`evaluate_discrepancy`]; the defaults for masks and blocks are those of `homodistil distill`."""

    eval_data: tuple[str, ...] = setting((), "Held-out text: files, folders, globs or Hub data sets.")
    text_column: str | None = setting(None, "Column with the text; default: text.")
    eval_split: str = setting("validation", "Split of a Hub data set or folder.")
    max_seq_length: int | None = setting(
        None, f"Tokens a block of held-out text (default: {ROW_LENGTH}, or the positions).", least=8
    )
    packing: bool | None = setting(None, "Documents share blocks; false: a row each; default: as in the run, or true.")
    max_eval_blocks: int = setting(1024, "Measure on at most so many blocks, ≥ 1.", least=1)
    mask_seed: int = setting(42, "Seed of the masks; the same for every model compared.", least=0)
    pseudo_perplexity_blocks: int = setting(16, "Blocks whose tokens are masked one at a time, ≥ 0.", least=0)

    def __post_init__(self) -> None:
        make_tuples(self)
        if not self.eval_data:
            raise ValueError("eval_data is not set; name held-out text, e.g. --eval_data corpus/validation.parquet")
        check_fields(self)

    def compared(self) -> dict[str, Any]:
        """Settings that two comparable results share; the text is compared apart."""
        left_out = ("eval_data", "text_column", "eval_split")
        return {name: value for name, value in asdict(self).items() if name not in left_out}


def evaluate_discrepancy(
    model: str | Path,
    *,
    teacher: str | Path | None = None,
    settings: DiscrepancySettings | Mapping[str, Any],
    output_dir: str | Path | None = None,
    say: Callable[[str], None] = logger.info,
) -> dict[str, Any]:
    """Measure a masked-LM model on held-out text, beside its teacher.

    Args:
        model: export of either format, finished run, `checkpoint-N`, or folder or Hub name of a stock model.
        teacher: folder or Hub name; default: the teacher that the run or the export recorded. If this teacher can't be
            read, `kl` and `agreement` are left out, with a line to `say`.
        settings: [`DiscrepancySettings`], or some of them by name; `eval_data` is needed.
        output_dir: folder of the results; default: `evaluations/NAME` beside the model.
        say: takes lines for the user.

    Returns:
        `dict`: the content of `summary.json`; its `discrepancy` has `kl` (nats a masked token), `agreement`,
        `mlm_accuracy` (in [0, 1]), `mlm_loss` (nats), `pseudo_perplexity` and how much was measured.

    Raises:
        ValueError: no masked-LM model, a teacher of another vocabulary, or text that can't be used.
        OSError: a file or the Hub can't be read, or results can't be written.
    """
    settings = settings_from(DiscrepancySettings, settings)
    with results_claimed(model, output_dir):
        evaluated = load_model(model, output_dir)
        student = _masked_lm(evaluated.model, f"model={str(model)!r}")
        found = _found_teacher(evaluated.source, teacher, say=say)
        if found is not None:
            check_words_of_model(evaluated.tokenizer, found.config)
        length = fitted_length(
            settings.max_seq_length, evaluated.model.config, argument="max_seq_length", tokenizer=evaluated.tokenizer
        )
        run = model_in(evaluated.source) if settings.packing is None else None
        packing = settings.packing if run is None else run.settings.get("packing")
        settings = replace(settings, max_seq_length=length, packing=packing is not False)
        blocks = held_out_blocks(settings, evaluated, say)
        depends_on = {
            "settings": settings.compared(),
            "blocks_sha256": hashlib.sha256(json.dumps(blocks["input_ids"][:]).encode()).hexdigest(),
            "teacher_sha256": weights_digest(found) if found else None,
        }

        def measure(folder: Path) -> dict[str, Any]:
            start = time.perf_counter()
            metrics = _measured(student, found, blocks, evaluated.tokenizer, settings=settings)
            teacher_name = model_name(found.name_or_path) if found else None
            names = {"teacher": teacher_name, "eval_data": list(map(public_name, settings.eval_data))}
            return metrics | names | depends_on | {"time_s": round(time.perf_counter() - start, 1)}

        record, was_there = evaluated.measured(DISCREPANCY, depends_on, measure)
        figures = ", ".join(f"{name} {record[name]:.4g}" for name in DISCREPANCY_METRICS if name in record)
        say(f"{DISCREPANCY}: {figures}{' (read from an earlier evaluation)' if was_there else ''}")
        summary = evaluated.summarize()
        evaluated.publish(summary)
        return summary


def held_out_blocks(
    settings: DiscrepancySettings, evaluated: EvaluatedModel, say: Callable[[str], None] = logger.info
) -> Dataset:
    """The blocks, `input_ids` and `example_id`, that a run with the same settings evaluates on; says what was read."""
    keep_datasets_here()
    documents = load_text(
        list(settings.eval_data), text_column=settings.text_column, split=settings.eval_split, argument="eval_data"
    )
    blocks = tokenize_to_blocks(
        documents,
        evaluated.tokenizer,
        max_seq_length=settings.max_seq_length or ROW_LENGTH,
        max_positions=max_tokens(evaluated.model.config),
        packing=settings.packing is not False,
    )
    chosen = some_blocks(blocks, settings.max_eval_blocks)
    say(read_line({f"of {len(blocks):,} to evaluate on": chosen}, documents.info.description))
    return chosen


@torch.inference_mode()
def pseudo_perplexity(model: LayerwiseModel, blocks: Dataset, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Mask every token of every block in turn and predict it from all others (Salazar et al., arXiv 1910.14659).

    Special tokens are never masked. The pseudo-perplexity is e to the mean cross-entropy.
    """
    special = torch.from_numpy(unmaskable_ids(tokenizer))
    total, count = 0.0, 0
    for block in tqdm(blocks, desc="masking each token in turn", disable=None, leave=False):
        ids_T = torch.tensor(block["input_ids"])
        for positions in (~torch.isin(ids_T, special)).nonzero().flatten().split(_BATCH_SIZE):
            # Copies of the block, each with another token masked; the head runs at these tokens alone.
            rows = torch.arange(len(positions))
            ids_BT = ids_T.repeat(len(positions), 1)
            ids_BT[rows, positions] = tokenizer.mask_token_id
            flat = (rows * len(ids_T) + positions).to(model.device)
            logits = model(input_ids=ids_BT.to(model.device), masked_positions=flat)["logits"].float()
            labels = ids_T[positions].to(model.device)
            total += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            count += len(positions)
    return {"pseudo_perplexity": math.exp(total / count), "num_pseudo_perplexity_tokens": count} if count else {}


@torch.inference_mode()
def _measured(
    student: LayerwiseModel,
    teacher: PreTrainedModel | None,
    blocks: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    settings: DiscrepancySettings,
) -> dict[str, Any]:
    device = fastest_device()
    student = student.to(device)
    # without a teacher the student stands in, and what compares them is left out below
    beside = FrozenTeacher(student if teacher is None else _masked_lm(teacher, "teacher").to(device))
    size, expected = (one.config.vocab_size for one in (student, beside.exact))
    if size != expected:
        raise ValueError(
            f"teacher has vocab_size={expected}, the model {size}: their predictions can't be compared; name the "
            "teacher that the model was made from"
        )
    collator = MaskedLMCollator(tokenizer, mlm_probability=EVALUATED_PROBABILITY, seed=settings.mask_seed)
    meter = TaskMeter(task_of(student))
    batches: Any = DataLoader(blocks, _BATCH_SIZE, collate_fn=collator)
    for batch in tqdm(batches, desc="predicting masked tokens", disable=None, leave=False):
        meter.update(student, beside, {name: tensor.to(device) for name, tensor in batch.items()})
    results = {name: value for name, value in meter.results().items() if teacher or name not in _OF_TEACHER}
    results |= {"num_blocks": len(blocks), "num_masked_tokens": int(meter.sums[3])}
    chosen = blocks.select(range(min(settings.pseudo_perplexity_blocks, len(blocks))))
    return results | pseudo_perplexity(student, chosen, tokenizer) | {"num_pseudo_perplexity_blocks": len(chosen)}


def _masked_lm(model: PreTrainedModel, label: str) -> LayerwiseModel:
    student = to_student(model, argument=label.partition("=")[0]).eval()
    if task_of(student).name != "mlm":
        raise ValueError(
            f"{label} is a {type(model).__name__}; a discrepancy is measured between masked-LM models: name one, or "
            "measure how often classes are the teacher's by --task classes"
        )
    return student


def _found_teacher(
    model: str | Path, teacher: str | Path | None, *, say: Callable[[str], None]
) -> PreTrainedModel | None:
    name, reason = teacher or recorded_teacher(model), "no teacher is recorded"
    try:
        if name is not None:
            return load_encoder(str(name))
    except (OSError, ValueError) as error:
        if teacher is not None:
            raise
        reason = f"its teacher can't be read ({error})"
    say(f"{model}: {reason}, so KL and agreement are left out; name one with --teacher")
    return None
