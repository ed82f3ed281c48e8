"""Rounds of self-distillation in one folder, each a run of its own, all from the same initial weights; and their card.

The folder shows which rounds are done, so a run that was killed at any moment goes on in its round. `trainer.py`
trains one round. `runs/further_pretraining.py` reads the corpus of such a run, alone or before a distillation.
"""

import gc
import json
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from transformers import PreTrainedConfig, PreTrainedModel, ViTMAEConfig, ViTMAEForPreTraining

from ...export.card import card_table, code_span, fill_card, run_texts
from ...export.facts import CARD_FILE
from ...export.hub import teacher_card
from ...files.checkpoints import MANIFEST_NAME, is_model_done, last_checkpoint, model_written
from ...files.folders import remove_folder, write_text
from ...files.messages import short_repr
from ...files.provenance import version_facts
from ...files.run_names import MODEL_FOLDER, RESULTS_FILE, STUDENT_FOLDER
from ...files.strict_json import read_json_object, write_json
from ...files.tensors import check_weights
from ...models.equality import tensors_digest
from ...models.loading import (
    checked_config,
    config_values,
    load_encoder,
    load_encoder_config,
    load_weights,
    plain_name,
)
from ...training.ranks import on_every_rank
from ...training.row_checks import rows_digest
from ...training.run_folder import check_not_read, folder_claimed, recorded_start
from ...training_args import with_settings
from .trainer import IMAGE_CLASS, SelfDistillationArguments, SelfDistillTrainer, check_class, check_corpus

RUN_FILE = "self_distillation.json"

_CARD_SETTINGS = (
    *("num_rounds", "distillation_weight", "mlm_probability", "learning_rate", "max_steps"),
    *("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps", "weight_decay", "seed"),
)
_HOW = """The initial weights were further pre-trained on a target corpus with their masked objective{rounds}.
Fine-tune it like the model it was made from, or distil it.{method}"""
_ROUNDS = """; then, {times}, training started again from the initial weights on the same corpus, and the squared
distance to the [CLS] state of the model before was added to the masked loss, times {weight}"""
_METHOD = """ The method is that of Self-Distillation for Further Pre-training of Transformers (Lee et al., ICLR
2023, arXiv 2210.02871)."""

_MAKE_ROOM = "Make room, then go on with resume_from_checkpoint=last"


def self_distill(
    model: str | Path, args: SelfDistillationArguments, *, revision: str | None = None, **kwargs: Any
) -> dict[str, Any]:
    """Further pre-train a model on a corpus in rounds of self-distillation.

    Round 0 trains the model. Each later round restarts from the first weights, with the previous result as teacher;
    with a `distillation_weight` of 0 there is none, as it would repeat round 0.
    Round k is in `OUTPUT_DIR/round-k`: checkpoints, and `model/` once it is done. The last round's model is also
    `OUTPUT_DIR/student`: a folder like the initial one, with tokenizer or image processor and a model card.
    A round holds two models: the trained one and its teacher. Each round reads the first weights from disk.

    Args:
        model: Hub name or folder of the initial weights.
        args: the settings. With `resume_from_checkpoint="last"` finished rounds are left alone. The round in progress
            goes on at its last complete checkpoint, as if it had never stopped, to the last bit.
        revision: branch, tag or commit of `model` on the Hub.
        kwargs: as in [`SelfDistillTrainer`], for every round: `train_dataset`, `eval_dataset`, `processing_class`, ….

    Returns:
        `dict`: `rounds`, the last logged values of each round by name, and `student`, the folder of the result.

    Raises:
        ValueError: a model that can't be pre-trained here, unusable data, or a folder that holds something else.
        OSError: the model can't be read, or a file can't be written.
    """
    name: str = plain_name(model)
    identity = {"model": name, "revision": revision}
    config = initial_config(name, revision=revision, token=args.hub_token)
    check_corpus(kwargs, kwargs.get("processing_class"), config, args)
    # what finished rounds were trained with; more rounds may follow
    settings = {key: value for key, value in args.settings_that_matter().items() if key != "num_rounds"}
    load = partial(load_initial, name, revision=revision, token=args.hub_token)
    digests = {"rows": rows_digest(kwargs.get("train_dataset")), "first_weights_sha256": tensors_digest(load())}
    begun_with = identity | json.loads(json.dumps(settings | digests)) | {"rows_per_step": args.rows_per_step}
    with folder_claimed(str(args.output_dir), is_main=args.should_save):
        folder = Path(args.output_dir or "")
        # refused on all ranks, before the main process removes what an earlier run has left
        on_every_rank(lambda: recorded_start(args, RUN_FILE, begun_with))
        if not args.resume_from_checkpoint:
            check_not_read(str(args.output_dir), {"model": name})
        if args.should_save and not args.resume_from_checkpoint:
            # in this order: what an earlier run has left must never pass for this one's
            (folder / RUN_FILE).unlink(missing_ok=True)
            for earlier in [*folder.glob("round-*"), folder / STUDENT_FOLDER]:
                remove_folder(earlier)
            write_json(folder / RUN_FILE, begun_with)
        rounds = [_train_round(number, args, load=load, data=kwargs) for number in range(args.last_round + 1)]
        if args.should_save:
            with model_written(folder / STUDENT_FOLDER, remedy=_MAKE_ROOM) as aside:
                # without the round's manifest: with the card the folder gets another
                last = folder / f"round-{args.last_round}" / MODEL_FOLDER
                shutil.copytree(last, aside, ignore=shutil.ignore_patterns(MANIFEST_NAME), dirs_exist_ok=True)
                values, _ = PreTrainedConfig.get_config_dict(aside)
                card = further_pretraining_card(values["architectures"][0], identity, args.to_dict())
                write_text(aside / CARD_FILE, card)
        return {"rounds": rounds, "student": str(folder / STUDENT_FOLDER)}


def initial_config(name: str, *, revision: str | None = None, token: str | None = None) -> PreTrainedConfig:
    """Read and check the configuration of initial weights; no weights are loaded.

    Raises:
        ValueError: a model that doesn't predict what is masked, or of an unknown architecture.
        OSError: there is no such model.
    """
    label = f"model={short_repr(name)}"
    values = config_values(name, label, revision=revision, token=token)
    if values.get("model_type") == ViTMAEConfig.model_type:
        config: PreTrainedConfig = checked_config(values, ViTMAEConfig, label)
        config.architectures = config.architectures or [IMAGE_CLASS]
    else:
        config = load_encoder_config(name, revision=revision, token=token, argument="model")
    check_class((config.architectures or [""])[0])
    return config


def load_initial(name: str, *, revision: str | None = None, token: str | None = None) -> PreTrainedModel:
    """Load weights to be further pre-trained, in float32; arguments and errors as [`initial_config`]."""
    config = initial_config(name, revision=revision, token=token)
    if config.model_type != ViTMAEConfig.model_type:
        return load_encoder(name, config=config, revision=revision, token=token, argument="model")
    label = f"model={short_repr(name)}"
    if Path(name).is_dir():
        with torch.device("meta"):
            num_parameters = ViTMAEForPreTraining(config).num_parameters()
        check_weights(name, num_parameters, label)
    remedy = "take the checkpoint of the masked auto-encoder, with its decoder"
    return load_weights(ViTMAEForPreTraining, name, config, label=label, revision=revision, token=token, remedy=remedy)


def _train_round(
    number: int, args: SelfDistillationArguments, *, load: Any, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Train a round unless it is done; its folder then has the model."""
    folder = Path(args.output_dir or "", f"round-{number}")
    if is_model_done(folder / MODEL_FOLDER):
        return read_json_object(folder / RESULTS_FILE, f"{RESULTS_FILE} in {folder}")
    # overwrite: without a whole checkpoint nothing that a killed round has left is of use
    own = with_settings(args, output_dir=str(folder), overwrite_output_dir=True)
    teacher = None if number == 0 else load_initial(str(folder.with_name(f"round-{number - 1}") / MODEL_FOLDER))
    trainer = SelfDistillTrainer(load(), own, teacher_model=teacher, **data)
    trainer.train(last_checkpoint(folder) if args.resume_from_checkpoint else None)
    trainer.check_finite()
    if trainer.eval_dataset is not None:
        trainer.evaluate()
    # of each name the value that was logged last
    logs = {name: value for entry in trainer.state.log_history for name, value in entry.items()}
    # wait on both sides of the writing: the next round of every rank reads what is written here
    trainer.accelerator.wait_for_everyone()
    if args.should_save:
        # results before the model: its folder is what marks a round as done
        write_json(folder / RESULTS_FILE, logs)
        with model_written(folder / MODEL_FOLDER, remedy=_MAKE_ROOM) as aside:
            trainer.model.save_pretrained(aside)
            if trainer.processing_class is not None:
                trainer.processing_class.save_pretrained(aside)
    trainer.accelerator.wait_for_everyone()
    del trainer, teacher
    gc.collect()  # a trainer is full of cycles, and the next round wants its memory
    return logs


def further_pretraining_card(architecture: str, source: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Write the card, markdown with its YAML header.

    Args:
        architecture: class of the checkpoint.
        source: `model`: Hub name or folder of the initial weights; the card names the last part of a folder.
        settings: of the run, by name.
    """
    stated, num_rounds = teacher_card(str(source["model"])), settings["num_rounds"]
    # max_steps overrides num_train_epochs: the card names the one that counted
    unread = "num_train_epochs" if settings["max_steps"] > 0 else "max_steps"
    named, texts = stated["name"], run_texts({"teacher": stated})
    how, kind = _HOW.format(rounds="", method=""), "further pre-trained"
    if weight := settings["distillation_weight"]:
        times = "once" if num_rounds == 1 else f"{num_rounds} times"
        how = _HOW.format(rounds=_ROUNDS.format(times=times, weight=weight), method=_METHOD)
        kind += " with self-distillation"
    return fill_card(
        ModelCardData(
            license=stated["licence"],
            base_model=stated["hub_id"],
            library_name="transformers",
            tags=["further-pretraining", *["self-distillation"] * bool(weight)],
        ),
        version_facts(),
        title=f"{named.rpartition('/')[2]}, {kind}",
        summary=f"{code_span(architecture)}, made from {code_span(named)} without a change of its shape.",
        how=how,
        settings=card_table(
            ("setting", "value"), [(f"`{name}`", settings[name]) for name in _CARD_SETTINGS if name != unread]
        ),
        limits=texts["limits"],
        licence=texts["licence"],
    )
