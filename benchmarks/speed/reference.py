"""The baselines: the distillation with structured pruning that users of Hugging Face write today, in two `Trainer`s.

Both train a stock `BertForMaskedLM` beside another one, take scores from gradients and multiply masks onto the weights
to the end: same terms, same precision, same schedule as `HomoDistilTrainer`, but no narrower matrix. [`PlainLoop`]
takes what the classes give: logits of all positions and the attention that transformers picks. [`StrongLoop`] is
optimized by a profile.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertForMaskedLM, Trainer

from homodistil_hf.models.units import encoder_groups
from homodistil_hf.models.widths import WidthPlan, widths_of
from homodistil_hf.pruning.masks import choose_masks, full_masks, scheduled_plan
from homodistil_hf.pruning.schedule import PruningSchedule

_SMOOTHING = 0.999


class StudentWithProjections(nn.Module):
    """Student and projections to the teacher's hidden size under one roof, so that Trainer's optimizer holds both."""

    def __init__(self, student: BertForMaskedLM, teacher_size: int):
        super().__init__()
        self.student = student
        sizes = student.config.hidden_size, teacher_size
        projections = [nn.Linear(*sizes, bias=False) for _ in range(student.config.num_hidden_layers + 1)]
        for projection in projections:
            nn.init.eye_(projection.weight)
        self.projections = nn.ModuleList(projections)

    def forward(self, **inputs: Any) -> Any:
        """Run the student and project its hidden states; returns its outputs and the projections."""
        outputs = self.student(**inputs)
        states = zip(self.projections, outputs.hidden_states, strict=True)
        return outputs, [projection(state) for projection, state in states]


class QueriesAndKeys:
    """Forward hooks that keep the queries and keys of every layer of a stock BERT."""

    def __init__(self, model: BertForMaskedLM):
        self.attentions = [layer.attention.self for layer in model.bert.encoder.layer]
        self.kept: dict[nn.Module, torch.Tensor] = {}
        for attention in self.attentions:
            attention.query.register_forward_hook(self._keep)
            attention.key.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self.kept[module] = output

    def scores(self) -> list[torch.Tensor]:
        """Attention scores of all layers before the softmax, `(batch, heads, tokens, tokens)` each."""
        scores = []
        for attention in self.attentions:
            shape = (attention.num_attention_heads, attention.attention_head_size)
            query, key = (self.kept[m].unflatten(-1, shape).transpose(1, 2) for m in (attention.query, attention.key))
            scores.append(query @ key.transpose(-1, -2) / math.sqrt(attention.attention_head_size))
        self.kept.clear()
        return scores


class StudentAtPositions(StudentWithProjections):
    """The same with the head at chosen positions only."""

    def forward(self, predicted: torch.Tensor, **inputs: Any) -> Any:  # type: ignore[override]
        """Logits where `predicted` is true, and the projections."""
        logits, hidden_states = _logits_at(self.student, predicted, inputs)
        states = zip(self.projections, hidden_states, strict=True)
        return logits, [projection(state) for projection, state in states]


class PlainLoop(Trainer):
    """Distils and prunes stock models with what transformers offers."""

    student_class = StudentWithProjections

    def __init__(
        self,
        student: BertForMaskedLM,
        teacher: BertForMaskedLM,
        *,
        schedule: PruningSchedule,
        target: WidthPlan,
        attention_weight: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(model=self.student_class(student, teacher.config.hidden_size), **kwargs)
        self.model_accepts_loss_kwargs = False  # so that Trainer divides by the number of micro-batches
        self.teacher = teacher.to(self.args.device).eval().requires_grad_(False)
        self.student = student
        self.schedule, self.target, self.attention_weight = schedule, target, attention_weight
        self.hooks = [QueriesAndKeys(model) for model in (self.teacher, student)] if attention_weight else []
        self.groups = encoder_groups(student)
        self.masks = full_masks(self.groups)
        self.kept = widths_of(student.config)
        self.unit_scores = {name: torch.zeros(len(mask), device=self.args.device) for name, mask in self.masks.items()}
        self.term_sums: dict[str, torch.Tensor] = {}
        self.num_batches, self.masked_step = 0, -1

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """MLM + KL + hidden states + embeddings (+ attention scores) of one batch; see `Trainer.compute_loss`."""
        labels = inputs["labels"]
        inputs = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
        teacher_logits, states = self.teach(inputs, labels != -100)
        mlm, logits, projected = self.study(model, inputs, labels)
        log_student, log_teacher = (F.log_softmax(rows.float(), dim=-1) for rows in (logits, teacher_logits))
        embedding, *hidden = _errors(projected, states)
        terms = {
            "mlm": mlm,
            "kl": F.kl_div(log_student, log_teacher, log_target=True, reduction="batchmean"),
            "hidden": torch.stack(hidden).sum(),
            "embedding": embedding,
        }
        loss = torch.stack(list(terms.values())).sum()
        if self.hooks:
            with self.accelerator.autocast():
                teacher_scores, student_scores = (hooks.scores() for hooks in self.hooks)
            terms["attention"] = torch.stack(_errors(student_scores, teacher_scores)).sum()
            loss = loss + self.attention_weight * terms["attention"]
        self.num_batches += 1
        self.term_sums = {name: term.detach() + self.term_sums.get(name, 0.0) for name, term in terms.items()}
        return (loss, None) if return_outputs else loss

    def teach(self, inputs: dict[str, Any], predicted: torch.Tensor) -> Any:
        """The teacher's logits of the predictions, and its hidden states."""
        with torch.no_grad(), self.accelerator.autocast():
            outputs = self.teacher(**inputs, output_hidden_states=True)
        return outputs.logits[predicted], outputs.hidden_states

    def study(self, model: nn.Module, inputs: dict[str, Any], labels: torch.Tensor) -> Any:
        """Masked-LM loss, logits of the predictions, and the student's projected hidden states."""
        outputs, projected = model(**inputs, labels=labels, output_hidden_states=True)
        return outputs.loss, outputs.logits[labels != -100], projected

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Masks, forward and backward, scores; see `Trainer.training_step`."""
        if self.masked_step != self.state.global_step:
            self.prune_and_mask(self.state.global_step)
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.score()
        return loss

    def prune_and_mask(self, step: int) -> None:
        """Choose masks if the schedule asks, and put dropped weights back to zero after the optimizer's step."""
        if step and self.schedule.is_due(step):
            full, present = widths_of(self.student.config), self.kept
            progress = self.schedule.progress(step)
            self.prune_to(scheduled_plan(full, self.target, progress=progress, kept=present, multiple=8))
        self.apply_masks()
        self.masked_step = step

    @torch.no_grad()
    def score(self) -> None:
        """Smooth |θ · ∂L/∂θ|, summed over each unit's slices, over the mean of the group."""
        sensitivities = {n: (p * p.grad).abs() for n, p in self.student.named_parameters() if p.grad is not None}
        for name, group in self.groups.items():
            total = torch.zeros_like(self.unit_scores[name])
            for piece in group.slices:
                total += sensitivities[piece.parameter].movedim(piece.dim, 0).reshape(group.num_units, -1).sum(1)
            self.unit_scores[name].lerp_(total / total.mean().clamp_min(1e-30), 1 - _SMOOTHING)

    def prune_to(self, plan: WidthPlan) -> None:
        """Choose masks that keep these widths."""
        self.masks = choose_masks(self.unit_scores, self.masks, plan=plan)
        self.kept = plan

    def apply_masks(self) -> None:
        """Multiply the weights of every unit by its mask."""
        self.multiply_by_masks(dict(self.student.named_parameters()))

    @torch.no_grad()
    def multiply_by_masks(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Multiply, in place, what has the shapes of the student's parameters, by their names."""
        for name, group in self.groups.items():
            for piece in group.slices:
                weights = tensors[piece.parameter].movedim(piece.dim, 0)
                kept = self.masks[name].to(weights).repeat_interleave(len(weights) // group.num_units)
                weights.mul_(kept.view(-1, *[1] * (weights.dim() - 1)))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the averages of the terms to what Trainer logs."""
        logs |= {f"loss_{name}": float(total) / self.num_batches for name, total in self.term_sums.items()}
        self.term_sums, self.num_batches = {}, 0
        super().log(logs, start_time)


class StrongLoop(PlainLoop):
    """The same loop, optimized by a profile; dropped units stay in their matrices.

    Heads at masked positions, the teacher in inference mode and wholly in the type of the products, the attention that
    is faster here, no scores once the plan is reached, and masks that are multiplied by one operation. Multiplied once
    they would not last: dropped channels get gradients through the means of LayerNorm, and Adam's moments go on.
    """

    student_class = StudentAtPositions

    def __init__(self, student: BertForMaskedLM, teacher: BertForMaskedLM, *, dtype: torch.dtype, **kwargs: Any):
        super().__init__(student, copy.deepcopy(teacher).to(dtype), **kwargs)
        self.factors: dict[str, torch.Tensor] = {}  # all masks of a parameter, in its shape
        if dtype == torch.bfloat16 and self.args.device.type == "cpu":
            # The faster one there, at our shapes at least; our trainer takes it too.
            for model in (self.teacher, student):
                model.set_attn_implementation("eager")

    def teach(self, inputs: dict[str, Any], predicted: torch.Tensor) -> Any:
        """See [`PlainLoop.teach`]."""
        with torch.inference_mode():
            return _logits_at(self.teacher, predicted, inputs)

    def study(self, model: nn.Module, inputs: dict[str, Any], labels: torch.Tensor) -> Any:
        """See [`PlainLoop.study`]."""
        predicted = labels != -100
        logits, projected = model(predicted, **inputs)
        return F.cross_entropy(logits.float(), labels[predicted]), logits, projected

    def prune_to(self, plan: WidthPlan) -> None:
        """See [`PlainLoop.prune_to`]."""
        super().prune_to(plan)
        self.factors = {name: torch.ones_like(weights) for name, weights in self.student.named_parameters()}
        self.multiply_by_masks(self.factors)

    @torch.no_grad()
    def apply_masks(self) -> None:
        """See [`PlainLoop.apply_masks`]."""
        if self.factors:
            torch._foreach_mul_(list(self.student.parameters()), list(self.factors.values()))

    def score(self) -> None:
        """See [`PlainLoop.score`]."""
        if self.kept != self.target:
            super().score()


def _logits_at(model: BertForMaskedLM, predicted: torch.Tensor, inputs: dict[str, Any]) -> Any:
    outputs = model.bert(**inputs, output_hidden_states=True)
    return model.cls(outputs.last_hidden_state[predicted]), outputs.hidden_states


def _errors(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    # Autograd can save the difference, but no tensor of an inference mode, as mse_loss would.
    return [(one.float() - other).square().mean() for one, other in zip(ours, theirs, strict=True)]
