"""Binarization beside a teacher: soft targets and all layers' hidden states (BiT, NeurIPS 2022, arXiv 2205.13016).

L = KL(p_t ‖ p_s) + Σ_k MSE(H_t^k, H_s^k): the paper's soft cross-entropy, less its constant, and states of one width.
This file trains one stage; `stages.py` chains them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ...distillation.losses import hidden_error, prediction_terms
from ...distillation.tasks import sequence_task
from ...files.settings import setting
from ...models.architectures.modeling_binarybert import ElasticQuantizer
from ...training.exact_trainer import ExactTrainer
from ...training.pair import check_alike
from ...training.run_folder import RunFolder
from ...training_args import ExactArguments, own_arguments
from .binarizing import calibrate


@dataclass
class BinarizationArguments(ExactArguments):
    """Settings of a stage of binarization: those of any run that resumes bit for bit."""

    dataloader_drop_last: bool = setting(False, "Trainer's; few rows are all used, the last batch is smaller.")


class BinarizationTrainer(ExactTrainer):
    """Trains a model of bits beside the model that it was made from; else `transformers.Trainer`, resumed bit for bit.

    Args:
        model: what is trained, made by [`to_binary`].
        args: the settings, which are copied.
        teacher_model: what `model` was made from: same head, layers and hidden size; float, or of more bits.
        kwargs: as in `transformers.Trainer`; labels of `train_dataset` are not used.

    Raises:
        ValueError: a teacher of other layers, hidden size or labels, or of several labels a row.
    """

    method = "bit"
    """Name by which configs choose it."""
    arguments_class = BinarizationArguments
    args: BinarizationArguments

    def __init__(
        self, model: PreTrainedModel, args: BinarizationArguments, *, teacher_model: PreTrainedModel, **kwargs: Any
    ):
        super().__init__(model, own_arguments(args, BinarizationArguments), **kwargs)
        self.run_folder = RunFolder(self.args)
        self.teacher = teacher_model.to(self.args.device).eval().requires_grad_(False)
        check_alike(teacher_model, model, ("num_hidden_layers", "hidden_size", "num_labels"))
        if teacher_model.config.problem_type == "multi_label_classification":
            raise ValueError("teacher has problem_type='multi_label_classification', which has no loss here")

    def start_student(self) -> None:
        """Take the scales of activations from the first batch."""
        first = self.prepare_batch(self._prepare_inputs(next(iter(self.get_train_dataloader()))))
        calibrate(self.model, {name: tensor for name, tensor in first.items() if name not in _LABELS})

    def count(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Rows and tokens of a batch, int64 `(2,)`; padding doesn't count."""
        num_tokens = _mask_of(inputs).sum(dtype=torch.int64)
        return torch.stack([torch.full_like(num_tokens, len(inputs["input_ids"])), num_tokens])

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As Trainer's; scales and thresholds of activations do not decay and have a rate of their own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        quantizers = [module for module in self.model.modules() if isinstance(module, ElasticQuantizer)]
        own = [one for module in quantizers for one in module.parameters() if one.requires_grad]
        if own:
            # out of the groups that Trainer has made, into one of their own
            moved = set(map(id, own))
            for group in optimizer.param_groups:
                group["params"] = [one for one in group["params"] if id(one) not in moved]
            rate = QUANTIZERS_RATE * self.args.learning_rate
            optimizer.add_param_group({"params": own, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's share of the loss of its step, or in evaluation the loss of the batch.

        Labels are not used.

        Args:
            model: as it is wrapped for training.
            inputs: a batch.
            return_outputs: also return the logits.
            num_items_in_batch: rows and tokens of the whole step, int64 `(2,)`; not used in evaluation.
        """
        read = {name: tensor for name, tensor in inputs.items() if name not in _LABELS}
        mask_BT = read["attention_mask"] = _mask_of(inputs)
        # in training those of the whole step, so that shares add up to its average
        counts = num_items_in_batch if model.training and num_items_in_batch is not None else self.count(inputs)
        num_rows, num_tokens = counts.unbind()
        with torch.no_grad(), self.accelerator.autocast():
            taught = self.teacher(**read, output_hidden_states=True)
        outputs = model(**read, output_hidden_states=True)
        # KL(p_t ‖ p_s), of an answer's start and end; Σ_k MSE(H_t^k, H_s^k), the embeddings among the states
        kl = sum(self._kl(outputs[name], taught[name], mask_BT, name) for name in _LOGITS if name in outputs)
        states = zip(taught["hidden_states"], outputs["hidden_states"], strict=True)
        hidden = sum(hidden_error(guide, state, mask_BT) for guide, state in states)
        # logits (B, T, C) predict once a token, all others once a row
        num_predictions = num_tokens if "logits" in outputs and outputs["logits"].dim() == 3 else num_rows
        terms = {"kl": kl / num_predictions, "hidden": hidden / num_tokens}
        loss = terms["kl"] + terms["hidden"]
        if model.training:
            loss = self.scale_and_log(loss, terms, model)
        return (loss, {name: outputs[name] for name in _LOGITS if name in outputs}) if return_outputs else loss

    def _kl(self, own: torch.Tensor, guide: torch.Tensor, mask_BT: torch.Tensor, name: str) -> torch.Tensor:
        # regression: ½ (z_t − z_s)²
        if own.dim() == 2 and name == "logits" and not (task := sequence_task(self.teacher.config)).has_classes:
            return task.terms(own, guide, guide)[1]
        if own.dim() == 3:  # a token each
            own, guide = own[mask_BT.bool()], guide[mask_BT.bool()]
        elif name != "logits":  # tokens are classes
            own, guide = (logits_BT.masked_fill(mask_BT == 0, _OUT_OF_REACH) for logits_BT in (own, guide))
        # labels have a part in the cross-entropy alone, which is not used
        nothing = own.new_zeros(len(own), dtype=torch.long)
        return prediction_terms(own, guide, nothing)[1]


QUANTIZERS_RATE = 10.0
"""Of scales and thresholds of activations, in learning rates of the weights."""
_OUT_OF_REACH = -1e4  # a logit whose probability is 0 in any type
_LOGITS = ("logits", "start_logits", "end_logits")
_LABELS = ("labels", "start_positions", "end_positions")


def _mask_of(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    mask_BT = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask_BT is None else mask_BT
