"""Models that predict masked words or masked patches of images: their loss, their states on unmasked input.

There is one class for text and one for images, each for all stock classes of its kind. The collator of images orders
patches by nothing but (seed, epoch, row); the model's configuration decides how many are masked. `trainer.py` averages
the losses.

Shapes: B batch, T tokens ([CLS] + patches of an image), H hidden, M masked positions, V vocabulary, P patches,
C channels, Y height, X width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel, ViTMAEForPreTraining

from ...data.masking import IGNORED_LABEL, SeededMasks, row_counter
from ...files.messages import short_repr
from ...models.architectures import HEADS, architecture_of, has_segments
from ...models.architectures.architecture import MASKED_LM

Inputs = Mapping[str, torch.Tensor]
IMAGE_CLASS = ViTMAEForPreTraining.__name__


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

    def last_states(self, model: PreTrainedModel, inputs: Inputs) -> torch.Tensor:
        """States (B, T, H) of the last layer on the text as it was before it was masked."""
        labels_BT = inputs["labels"]
        # a label is the token that stood there before; where nothing is predicted, the input is the text itself
        ids_BT = torch.where(labels_BT == IGNORED_LABEL, inputs["input_ids"], labels_BT)
        encoder: Any = model.base_model
        return encoder(**self._forward(inputs) | {"input_ids": ids_BT}).last_hidden_state

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

    def last_states(self, model: PreTrainedModel, inputs: Inputs) -> torch.Tensor:
        """States (B, 1 + P, H) of the last layer on whole images, patches in their order."""
        # the encoder sorts patches by their noise: rising noise leaves them in their order
        noise_BP = torch.arange(self.num_patches, device=inputs["noise"].device).expand_as(inputs["noise"])
        encoder: Any = model.base_model
        # the stock encoder always masks, and has no argument for how much
        ratio, model.config.mask_ratio = model.config.mask_ratio, 0.0
        try:
            return encoder(pixel_values=inputs["pixel_values"], noise=noise_BP).last_hidden_state
        finally:
            model.config.mask_ratio = ratio


Modality: TypeAlias = MaskedWords | MaskedPatches


def modality_of(model: PreTrainedModel) -> Modality:
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


def state_error(
    student_BTH: torch.Tensor, teacher_BTH: torch.Tensor, mask_BT: torch.Tensor | None, *, first_only: bool
) -> torch.Tensor:
    """Squared distance of a student's states from its teacher's: ‖h_s − h_t‖², summed over channels and rows.

    Self-distillation for further pre-training (arXiv 2210.02871).

    Args:
        student_BTH: states of the student.
        teacher_BTH: states of the teacher.
        mask_BT: 1 where a token counts, 0 where it is padding; None: all count.
        first_only: compare the first state ([CLS]) of each row, as the paper does; else the mean over its tokens.

    Returns:
        `torch.Tensor`: float32 scalar.

    Example:
    ```python
    >>> state_error(torch.ones(2, 3, 4), torch.zeros(2, 3, 4), None, first_only=True)
    tensor(8.)

    ```
    """
    if first_only:
        return (student_BTH[:, 0].float() - teacher_BTH[:, 0].float()).square().sum()
    # squared distance of each token; then the mean over a row's own tokens, so that long rows weigh no more
    errors_BT = (student_BTH.float() - teacher_BTH.float()).square().sum(-1)
    if mask_BT is None:
        return errors_BT.mean(-1).sum()
    return ((errors_BT * mask_BT).sum(-1) / mask_BT.sum(-1)).sum()


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
