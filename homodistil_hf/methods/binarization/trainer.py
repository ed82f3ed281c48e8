"""Binarization beside a teacher: soft targets and all layers' hidden states (BiT, NeurIPS 2022, arXiv 2205.13016).

L = KL(p_t ‖ p_s) + Σ_k MSE(H_t^k, H_s^k): the paper's soft cross-entropy, less its constant, and states of one width.
One stage of a chain; what begins as what, and the next one, isn't here.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer

from ...distillation.losses import hidden_error, prediction_terms, regression_terms
from ...models.architectures.modeling_binarybert import ElasticQuantizer
from .binarizing import calibrate


class BinarizationTrainer(Trainer):
    """A stock `Trainer` of a model of bits beside the model that it was made from.

    Args:
        teacher: of the same head, layers and hidden size; float, or of more bits.
        kwargs: as in `transformers.Trainer`; `model` is what [`models.binarizing.to_binary`] gives.

    Raises:
        ValueError: a teacher of other layers, hidden size or labels, or of several labels a row.
    """

    method = "bit"
    """Name by which configs choose it."""

    def __init__(self, teacher: PreTrainedModel, **kwargs: Any):
        super().__init__(**kwargs)
        self.model_accepts_loss_kwargs = False  # the loss is a mean of its batch, so Trainer divides by the steps
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        for name in ("num_hidden_layers", "hidden_size", "num_labels"):
            own, others = getattr(self.model.config, name), getattr(teacher.config, name)
            if own != others:
                raise ValueError(f"teacher has {name}={others}, the student {own}; take the model it was made from")
        if teacher.config.problem_type == "multi_label_classification":
            raise ValueError("teacher has problem_type='multi_label_classification', which has no loss here")

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any) -> Any:
        """As `Trainer.train`; a run that begins takes the scales of activations from its first batch."""
        if not resume_from_checkpoint:
            with torch.random.fork_rng():  # the order of the rows must not depend on who has looked at them
                first = self._prepare_inputs(next(iter(self.get_train_dataloader())))
            calibrate(self.model, {name: tensor for name, tensor in first.items() if name not in _LABELS})
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """As `Trainer`'s; scales and thresholds of activations do not decay and have a rate of their own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        quantizers = [module for module in self.model.modules() if isinstance(module, ElasticQuantizer)]
        own = [one for module in quantizers for one in module.parameters() if one.requires_grad]
        if own:
            moved = set(map(id, own))
            for group in optimizer.param_groups:
                group["params"] = [one for one in group["params"] if id(one) not in moved]
            rate = QUANTIZERS_RATE * self.args.learning_rate
            optimizer.add_param_group({"params": own, "lr": rate, "weight_decay": 0.0})
        return optimizer

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The loss of a batch; labels are not used. Arguments and return as `Trainer.compute_loss`."""
        read = {name: tensor for name, tensor in inputs.items() if name not in _LABELS}
        mask_BT = read.setdefault("attention_mask", torch.ones_like(read["input_ids"]))
        with torch.no_grad(), self.accelerator.autocast():
            taught = self.teacher(**read, output_hidden_states=True)
        found = model(**read, output_hidden_states=True)
        kl = sum(self._kl(found[name], taught[name], mask_BT, name) for name in _LOGITS if name in found)
        states = zip(taught["hidden_states"], found["hidden_states"], strict=True)
        hidden = sum(hidden_error(guide, state, mask_BT) for guide, state in states)
        num_predictions = mask_BT.sum() if "logits" in found and found["logits"].dim() == 3 else len(mask_BT)
        loss = kl / num_predictions + hidden / mask_BT.sum()
        return (loss, {name: found[name] for name in _LOGITS if name in found}) if return_outputs else loss

    def _kl(self, own: torch.Tensor, guide: torch.Tensor, mask_BT: torch.Tensor, name: str) -> torch.Tensor:
        if self.teacher.config.num_labels == 1:
            return regression_terms(own, guide, guide)[1]
        if own.dim() == 3:  # a token each
            own, guide = own[mask_BT.bool()], guide[mask_BT.bool()]
        elif name != "logits":  # tokens are classes
            own, guide = (logits_BT.masked_fill(mask_BT == 0, _OUT_OF_REACH) for logits_BT in (own, guide))
        nothing = own.new_zeros(len(own), dtype=torch.long)
        return prediction_terms(own, guide, nothing)[1]


QUANTIZERS_RATE = 10.0
"""Of scales and thresholds of activations, in learning rates of the weights."""
_OUT_OF_REACH = -1e4  # a logit whose probability is 0 in any type
_LOGITS = ("logits", "start_logits", "end_logits")
_LABELS = ("labels", "start_positions", "end_positions")
