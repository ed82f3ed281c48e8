"""One run of `homodistil distill` with an embedding model: texts of their own lengths, vectors in place of words."""

import time
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..data.blocks import some_blocks
from ..data.corpus import load_text
from ..data.texts import by_length, tokenize_texts
from ..export.student_in_folder import RESULTS_FILE, SETTINGS_FILE, STUDENT_FOLDER
from ..files.caches import keep_datasets_here
from ..files.messages import shown
from ..files.provenance import version_facts
from ..files.strict_json import read_json_object, write_json
from ..methods.conditions import with_settings
from ..methods.embedding import EmbeddingDistilTrainer
from ..models.families import max_tokens
from ..models.sentence_embeddings import EmbeddingModel, load_embedding_model
from .config import RunConfig
from .distill import COSTS, Say, check_output_folder, hold_out

_FOREIGN = ("vocabulary", "tokenizer", "teacher_revision", "streaming")
METRICS = ("cosine", "neighbours", "neighbours_in_index")


def distill_embedding(settings: RunConfig, say: Say) -> dict[str, Any]:
    """Run a distillation of an embedding model from settings to export; arguments as [`distill`].

    Returns:
        `dict`: what was written to `results.json`, on the main process.

    Raises:
        ValueError: something about the settings, the data or the teacher can't work.
        OSError: a file can't be read or written.
    """
    since = time.perf_counter()
    run = settings.run
    _refuse(settings)
    checkpoint = check_output_folder(settings)
    teacher = load_embedding_model(run.teacher)
    if run.max_seq_length > (limit := max_tokens(teacher.encoder.config)):
        raise ValueError(
            f"max_seq_length={run.max_seq_length} is over the teacher's positions={limit}; nearest valid: {limit}"
        )
    training = with_settings(settings.training, train_sampling_strategy="sequential")  # by_length has shuffled
    plan = EmbeddingDistilTrainer.plan_of(training, teacher.encoder.config)
    keep_datasets_here()
    with training.main_process_first(desc="reading the text"):
        train, held_out = _texts(settings, teacher, say if training.process_index == 0 else lambda line: None)
    trainer = EmbeddingDistilTrainer(
        teacher, training, plan=plan, train_dataset=train, eval_dataset=held_out, **run.own_settings
    )
    folder = Path(training.output_dir)
    if trainer.is_world_process_zero():
        write_json(folder / SETTINGS_FILE, settings.given)
    trainer.train(checkpoint)
    trainer.evaluate()
    trainer.export(folder / STUDENT_FOLDER)
    if not trainer.is_world_process_zero():
        return {}
    facts = read_json_object(folder / STUDENT_FOLDER / "facts.json", "facts.json")
    metrics = trainer.held_out_metrics
    results = {
        "models": [
            {"name": name, **{cost: facts[name][cost] for cost in COSTS}, "dimension": facts[name]["dimension"]}
            | {metric: 1.0 if name == "teacher" else metrics[metric] for metric in METRICS}
            for name in ("teacher", "student")
        ],
        "evaluation": metrics,
        "plan": trainer.plan.to_dict(),
        "num_steps": trainer.state.global_step,
        "versions": version_facts(),
        "settings": settings.given,
        "time_s": round(time.perf_counter() - since, 1),
    }
    write_json(folder / RESULTS_FILE, results)
    return results


def _refuse(settings: RunConfig) -> None:
    run = settings.run
    for name in _FOREIGN:
        if value := getattr(run, name):
            raise ValueError(f"{name}={shown(value)} has no place with an embedding model; leave it out")
    if run.further_settings:
        raise ValueError(f"further_pretraining={shown(run.further_settings)} needs a masked-LM teacher; leave it out")
    if settings.members:
        raise ValueError(
            "student is a list, which embedding models can't be distilled to in one run yet; name one, and its "
            "student/ as the next run's teacher"
        )
    if settings.training.push_to_hub:
        raise ValueError("push_to_hub=True is not there yet for embedding models; upload OUTPUT_DIR/student")


def _texts(settings: RunConfig, teacher: EmbeddingModel, say: Say) -> tuple[Dataset, Dataset]:
    """Rows to train on, in batches of about the same length, and rows to evaluate on."""
    run, training = settings.run, settings.training
    documents: Any = load_text(run.train_data, text_column=run.text_column, split=run.train_split)
    if run.eval_data:
        held_out: Any = load_text(
            run.eval_data, text_column=run.text_column, split=run.eval_split, argument="eval_data"
        )
    else:
        documents, held_out = hold_out(documents, say)

    def rows(texts: Dataset) -> Dataset:
        return tokenize_texts(
            texts,
            teacher.tokenizer,
            max_length=min(run.max_seq_length, teacher.settings.max_seq_length),
            prepare=teacher.prepared,
            num_proc=run.preprocessing_num_workers,
        )

    batch_size = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    return by_length(rows(documents), batch_size=batch_size, seed=training.seed), some_blocks(
        rows(held_out), run.max_eval_blocks
    )
