"""Further pre-training on a small corpus, regularised by self-distillation (arXiv 2210.02871, ICLR 2023).

Round 0 trains the initial weights θ₀ on the corpus with the masked objective. Each later round restarts from θ₀ on the
same rows, with the previous round's model as teacher:

L = masked loss(masked x) + w · ‖h_student(x) − stopgrad h_teacher(x)‖²

with h the last layer's first state on unmasked input, and w = 1. This file trains one round; `rounds.py` chains them.
Nothing is pruned. There is a class for words and one for patches of images, each for all stock classes of its kind.

Shapes: B batch, T tokens ([CLS] + patches of an image), H hidden, M masked positions, V vocabulary, P patches,
C channels, Y height, X width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
import torch
from datasets import IterableDataset
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel, TrainingArguments, ViTMAEConfig, ViTMAEForPreTraining

from ...data.masking import IGNORED_LABEL, MaskedLMCollator, SeededMasks, row_counter
from ...files.messages import first_of, short_repr
from ...files.settings import setting
from ...models.architectures import HEADS, architecture_of, has_segments
from ...models.architectures.architecture import MASKED_LM
from ...training.evaluation_loop import gathered, own_rows
from ...training.exact_trainer import ExactTrainer
from ...training.pair import check_alike
from ...training.ranks import check_launch
from ...training.row_checks import check_data
from ...training_args import ExactArguments, own_arguments

Inputs: TypeAlias = Mapping[str, torch.Tensor]
IMAGE_CLASS = ViTMAEForPreTraining.__name__
_REMEDIES = {
    "torch_compile": "leave it off: half of each step is outside what would be compiled",
    "push_to_hub": "leave it out, and push OUTPUT_DIR/student with `hf upload`",
}

_NOT_TAKEN = ("compute_metrics", "preprocess_logits_for_metrics")
"""Arguments of Trainer that would have no effect."""


@dataclass
class SelfDistillationArguments(ExactArguments):
    """Settings of further pre-training with self-distillation, on top of all that `TrainingArguments` has.

    Raises:
        ValueError: a value out of range or a setting that can't work here; the message names argument, value and
            remedy.

    Example:
    ```python
    >>> args = SelfDistillationArguments(output_dir="out", max_steps=100, report_to="none")
    >>> args.num_rounds, args.distillation_weight
    (1, 1.0)

    ```
    """

    without_later_effect: ClassVar = ExactArguments.without_later_effect | {"num_rounds", "remove_unused_columns"}

    num_rounds: int = setting(
        1, "Rounds of self-distillation after round 0, ≥ 1, each from the initial weights; the paper's.", least=1
    )
    distillation_weight: float = setting(
        1.0,
        "Factor ≥ 0 of the squared distance to the teacher's [CLS] states; the paper's. 0: round 0 alone.",
        range="[0, inf)",
    )
    mlm_probability: float = setting(
        0.15, "Share in (0, 1) of a text's tokens to predict; believed, as BERT's.", range="(0, 1)"
    )

    # TrainingArguments with other defaults
    learning_rate: float = setting(
        1.5e-4, "Peak learning rate; the paper's for images, only believed for text.", range="[0, inf)"
    )
    adam_beta2: float = setting(0.95, "Adam's β2; the paper's for images, only believed for text.", range="[0, 1)")
    weight_decay: float = setting(0.01, "AdamW's; the paper's for images, only believed for text.")
    per_device_train_batch_size: int = setting(
        64, "Rows of a micro-batch on each device; the paper's batch for images, 128 for text.", least=1
    )
    num_train_epochs: float = setting(100.0, "Passes of each round; the paper's for text (images: max_steps=20000).")
    remove_unused_columns: bool = setting(False, "Trainer's; the collators choose their columns themselves.")

    @property
    def last_round(self) -> int:
        """Number of the last round: 0 where nothing is asked of a teacher, as a later round would repeat that one."""
        return self.num_rounds if self.distillation_weight > 0 else 0

    def __post_init__(self) -> None:
        super().__post_init__()  # there a mode or backend of torch_compile sets it
        for name, remedy in _REMEDIES.items():
            if getattr(self, name):
                raise ValueError(f"{name}=True is not supported by SelfDistillTrainer; {remedy}")


class SelfDistillTrainer(ExactTrainer):
    """One round: masked training of a model, beside a teacher if there is one; else `transformers.Trainer`.

    Masks and the order of rows depend on nothing but the settings, so a resumed round equals the uninterrupted one to
    the last bit. Evaluations measure the masked loss alone, always with the same masks.

    Args:
        model: the model to train: a masked-LM model of a known architecture, or a `ViTMAEForPreTraining`.
        args: the settings, which are copied; `num_rounds` is not used here.
        teacher_model: the model that it learns from, of the same class; taken over, frozen. Default: plain further
            pre-training.
        train_dataset: rows with `input_ids` or `pixel_values`; masks are drawn from an `example_id` if rows have it.
        eval_dataset: rows held out.
        processing_class: tokenizer (which masking text needs) or image processor; saved with checkpoints.
        data_collator: default: [`MaskedLMCollator`] or [`MaskedImageCollator`].
        kwargs: as in `transformers.Trainer`, but for a loss or metrics of one's own, which are refused.

    Raises:
        ValueError: another kind of model, a teacher that can't be compared with it, empty or foreign data.
    """

    method = "self_distillation"
    """Name by which configs choose it."""
    arguments_class = SelfDistillationArguments
    args: SelfDistillationArguments

    def __init__(
        self,
        model: PreTrainedModel,
        args: SelfDistillationArguments,
        *,
        teacher_model: PreTrainedModel | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        data_collator: Any = None,
        **kwargs: Any,
    ):
        for name in _NOT_TAKEN:
            if (value := kwargs.get(name)) is not None:
                raise ValueError(
                    f"{name}={short_repr(value)} has no part in SelfDistillTrainer, which measures the masked loss "
                    "alone; leave it out"
                )
        args = own_arguments(args, SelfDistillationArguments)
        check_launch(args)
        self.modality = modality_of(model)
        data = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        check_corpus(data, processing_class, model.config, args)
        if data_collator is None and isinstance(self.modality, MaskedPatches):
            data_collator = MaskedImageCollator(self.modality.num_patches, seed=args.seed)
        elif data_collator is None:
            masks: Any = {"mlm_probability": args.mlm_probability, "seed": args.seed}
            data_collator = MaskedLMCollator(processing_class, **masks)
        self.teacher = None
        if teacher_model is not None and args.distillation_weight > 0:  # else it would be asked for nothing
            check_alike(teacher_model, model, ("model_type", "hidden_size", "vocab_size"))
            self.teacher = teacher_model.eval().requires_grad_(False).to(args.device)
        super().__init__(model, args, processing_class=processing_class, data_collator=data_collator, **data, **kwargs)

    @property
    def frozen_teacher(self) -> nn.Module | None:
        """The model of the round before."""
        return self.teacher

    def count(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Predictions and rows of a batch, int64 `(2,)`."""
        num_predictions = self.modality.num_predictions(inputs)
        rows = inputs["pixel_values"] if "pixel_values" in inputs else inputs["input_ids"]
        return torch.stack([num_predictions, torch.full_like(num_predictions, len(rows))])

    def smallest_inputs(self) -> dict[str, torch.Tensor]:
        """One token, or one image."""
        if not isinstance(self.modality, MaskedPatches):
            return super().smallest_inputs()
        size, num_channels = self.model.config.image_size, self.model.config.num_channels
        sides = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.zeros(1, num_channels, *sides, device=self.args.device)}

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's share of the loss of its step; in evaluation the masked loss alone.

        Args:
            model: as it is wrapped for training.
            inputs: a masked batch.
            return_outputs: not supported, as nothing asks for outputs.
            num_items_in_batch: predictions and rows of the step, int64 `(2,)`; None: those of this batch.
        """
        # divided by the counts of the whole step, shares of micro-batches and ranks add up to its average
        counts = self.count(inputs) if num_items_in_batch is None else num_items_in_batch
        num_predictions, num_rows = counts.to(self.args.device).clamp(min=1).float().unbind()
        # around the states, too: they come from the bare encoder, whose forward accelerate has not wrapped
        with self.accelerator.autocast():
            terms = {"masked": self.modality.loss_sum(model, self.model, inputs) / num_predictions}
            if not model.training:
                return terms["masked"]
            if self.teacher is not None:
                # h of unmasked x, the teacher's without a gradient: a pass of each beside that of the masked loss
                with torch.no_grad():
                    teacher_BH = self.modality.first_states(self.teacher, inputs)
                student_BH = self.modality.first_states(self.model, inputs)
                # ‖h_student − h_teacher‖², summed over channels, averaged over rows
                terms["state"] = (student_BH.float() - teacher_BH.float()).square().sum() / num_rows
        loss = terms["masked"]
        if "state" in terms:
            loss = loss + self.args.distillation_weight * terms["state"]
        return self.scale_and_log(loss, terms, model)

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> Any:
        """The masked loss of one batch; no logits are returned."""
        with torch.no_grad():
            rows = own_rows(self._prepare_inputs(inputs), self.accelerator)
            if not len(next(iter(rows.values()))):  # another rank has all that are left
                return torch.zeros((), device=self.args.device), None, None
            batch = self.prepare_batch(rows)
            loss, num_predictions = self.compute_loss(model, batch), int(self.count(batch)[0])
            # on the CPU: Apple's devices have no float64
            self._measured += torch.tensor([float(loss) * num_predictions, num_predictions], dtype=torch.float64)
            return loss, None, None

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> Any:
        """As Trainer's; the loss is the mean over all predictions, where Trainer's is that of batches' means."""
        self._measured = torch.zeros(2, dtype=torch.float64)
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        loss_sum, num_predictions = map(sum, zip(*gathered(self._measured.tolist()), strict=True))
        if num_predictions:
            output.metrics[f"{metric_key_prefix}_loss"] = loss_sum / num_predictions
        return output


# What is refused


def check_corpus(data: Mapping[str, Any], processor: Any, config: PreTrainedConfig, args: TrainingArguments) -> None:
    """Refuse, by a ValueError, data that can't be trained on: empty, streamed, of another modality or too few.

    Args:
        data: with `train_dataset` and `eval_dataset`, both optional.
        processor: tokenizer or image processor.
        config: of the model.
        args: settings with the size of a batch.
    """
    rows = {name: data.get(name) for name in ("train_dataset", "eval_dataset")}
    if isinstance(rows["train_dataset"], torch.utils.data.IterableDataset | IterableDataset):
        raise ValueError(
            f"train_dataset is a stream ({type(rows['train_dataset']).__name__}); the corpus is read many times: give "
            "a data set with a length"
        )
    if config.model_type == ViTMAEConfig.model_type:
        for name, images in rows.items():
            if images is None:
                continue
            if len(images) == 0:
                raise ValueError(f"{name} is empty (0 rows); check its filters, split and path")
            first = images[0]
            if "pixel_values" not in first:
                raise ValueError(
                    f"{name} has rows of {first_of(map(str, first))}, but no pixel_values; make them with the "
                    "model's image processor"
                )
    else:
        check_data(rows, processor, config)
    smallest = args.train_batch_size * args.world_size
    if rows["train_dataset"] is not None and len(rows["train_dataset"]) < smallest:
        raise ValueError(
            f"train_dataset has {len(rows['train_dataset'])} rows, fewer than the {smallest} of a batch "
            "(per_device_train_batch_size × ranks); give more rows or a smaller batch"
        )


# Models that predict what is masked


class MaskedWords:
    """Masked-LM encoders; batches are those of [`MaskedLMCollator`], or of another that gives labels.

    Args:
        model: without any wrapper.
    """

    def __init__(self, model: PreTrainedModel):
        self.entry = architecture_of(model.config).mlm_entry(model)
        segments = ("token_type_ids",) if has_segments(model.config) else ()
        self.input_names = ("input_ids", "attention_mask", *segments)

    def num_predictions(self, inputs: Inputs) -> torch.Tensor:
        """Masked tokens of a batch, int64 scalar."""
        return (inputs["labels"] != IGNORED_LABEL).sum()

    def loss_sum(self, wrapped: nn.Module, model: PreTrainedModel, inputs: Inputs) -> torch.Tensor:
        """Cross entropy of the masked tokens, summed over them: float32 scalar, nats.

        Args:
            wrapped: the model as it is wrapped for training.
            model: the same without its wrapper.
            inputs: a batch with labels.
        """
        labels_N = inputs["labels"].flatten()
        positions_M = inputs.get("masked_positions")
        # other collators than ours give labels alone
        if positions_M is None:
            positions_M = (labels_N != IGNORED_LABEL).nonzero().flatten()
        # The head decodes the M positions alone, so row m of the logits belongs to position m.
        # All tokens would be more work than a small encoder.
        with self.entry.register_forward_pre_hook(lambda _, states: (states[0].flatten(0, -2)[positions_M],)):
            logits_MV = wrapped(**self._forward(inputs)).logits
        return F.cross_entropy(logits_MV.float(), labels_N[positions_M], reduction="sum")

    def first_states(self, model: PreTrainedModel, inputs: Inputs) -> torch.Tensor:
        """[CLS] states (B, H) of the last layer on the text as it was before it was masked."""
        labels_BT = inputs["labels"]
        # a label is the token that stood there before; where nothing is predicted, the input is the text itself
        ids_BT = torch.where(labels_BT == IGNORED_LABEL, inputs["input_ids"], labels_BT)
        encoder: Any = model.base_model
        return encoder(**self._forward(inputs) | {"input_ids": ids_BT}).last_hidden_state[:, 0]

    def _forward(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        return {name: inputs[name] for name in self.input_names if name in inputs}


class MaskedPatches:
    """`ViTMAEForPreTraining` on batches of [`MaskedImageCollator`]. Its config has the ratio and the pixel loss."""

    def __init__(self, model: PreTrainedModel):
        self.num_patches: int = model.get_submodule("vit.embeddings.patch_embeddings").num_patches

    def num_predictions(self, inputs: Inputs) -> torch.Tensor:
        """Images of a batch, int64 scalar: as many patches are masked in each."""
        return torch.tensor(len(inputs["pixel_values"]))

    def loss_sum(self, wrapped: nn.Module, model: PreTrainedModel, inputs: Inputs) -> torch.Tensor:
        """Mean squared error of the masked patches' pixels, summed over images; as [`MaskedWords.loss_sum`]."""
        outputs = wrapped(pixel_values=inputs["pixel_values"], noise=inputs["noise"])
        # the stock loss is a mean over masked patches, as many in each image: times B it is a sum over images
        return outputs.loss.float() * len(inputs["pixel_values"])

    def first_states(self, model: PreTrainedModel, inputs: Inputs) -> torch.Tensor:
        """[CLS] states (B, H) of the last layer on whole images, patches in their order."""
        # the encoder sorts patches by their noise: rising noise leaves them in their order
        noise_BP = torch.arange(self.num_patches, device=inputs["noise"].device).expand_as(inputs["noise"])
        encoder: Any = model.base_model
        # the stock encoder always masks, and has no argument for how much
        ratio, model.config.mask_ratio = model.config.mask_ratio, 0.0
        try:
            return encoder(pixel_values=inputs["pixel_values"], noise=noise_BP).last_hidden_state[:, 0]
        finally:
            model.config.mask_ratio = ratio


def modality_of(model: PreTrainedModel) -> MaskedWords | MaskedPatches:
    """What a model predicts; errors as [`check_class`]."""
    check_class(type(model).__name__)
    return MaskedPatches(model) if type(model).__name__ == IMAGE_CLASS else MaskedWords(model)


def check_class(name: str) -> None:
    """Refuse, by a ValueError, classes of models that don't predict what is masked."""
    words = [known for known, head in HEADS.items() if head.kind is MASKED_LM]
    if name not in (*words, IMAGE_CLASS):
        raise ValueError(
            f"model is a {name[:100]}, which doesn't predict what is masked; expected {', '.join(words)} or "
            f"{IMAGE_CLASS}: load the pre-trained model with its pre-training head"
        )


class MaskedImageCollator(SeededMasks):
    """Batch images, and give each a random order of its patches; a masked auto-encoder keeps the first of them.

    A row's order depends on seed, epoch and `example_id` alone, as a row's mask in [`MaskedLMCollator`].

    Args:
        num_patches: of an image, ≥ 1.
        seed: of the orders, 0 … 2⁶⁴ − 1.

    Raises:
        ValueError: `seed` out of range.

    Example:
    ```python
    >>> collator = MaskedImageCollator(4)
    >>> batch = collator([{"pixel_values": torch.zeros(3, 2, 2), "example_id": 0}])
    >>> batch["pixel_values"].shape, sorted(batch["noise"][0].tolist())
    (torch.Size([1, 3, 2, 2]), [0.0, 1.0, 2.0, 3.0])

    ```
    """

    def __init__(self, num_patches: int, *, seed: int = 0) -> None:
        super().__init__(seed)
        self.num_patches = num_patches

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Batch rows.

        Args:
            rows: each with `pixel_values` (C, Y, X) of one size, and optionally `example_id`, an integer. Other
                columns are ignored.

        Returns:
            `dict`: `pixel_values` (B, C, Y, X), and `noise` (B, P), a permutation of 0 … P − 1 a row; float32 both.

        Raises:
            ValueError: images of several sizes.
        """
        images = [np.asarray(row["pixel_values"], dtype=np.float32) for row in rows]
        if len(shapes := {image.shape for image in images}) != 1:
            raise ValueError(f"images of a batch have shapes {short_repr(sorted(shapes))}; make them all one size")
        noise = []
        for row, image in zip(rows, images, strict=True):
            # key: seed and epoch; counter: the row, so that batch and worker have no part in its words
            generator = self.generator()
            state: Any = generator.state
            state["state"]["counter"] = np.array(row_counter(row, image.astype("<f4").tobytes()), dtype=np.uint64)
            generator.state = state
            # Ranks of raw words and not the words: equal ones would be ordered differently on different devices.
            noise.append(generator.random_raw(self.num_patches).argsort(kind="stable").astype(np.float32))
        return {"pixel_values": torch.from_numpy(np.stack(images)), "noise": torch.from_numpy(np.stack(noise))}
