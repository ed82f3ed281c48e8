"""HomoDistil as a `Trainer`: prune a student a little at a time while it is distilled from the model it was.

The paper (Liang et al., ICLR 2023, section 3) and where it stands; the steps of a run in their order:

| paper | code |
| --- | --- |
| the student starts as a copy of its teacher | training/pair.py: `prepare` |
| r(t) = r_f + (1 − r_f)·(1 − (t − t_i)/(t_f − t_i))³ | `begin_step`; pruning/schedule.py |
| masks of rows and columns, by the highest scores | `begin_step`; pruning/masks.py, what they drop: compaction.py |
| L = L_MLM + α₁·D_KL + α₂·L_hidn + α₃·L_emb + α₄·L_attn | distillation/objective.py: `total`, of `compute_loss` |
| L_MLM, D_KL | distillation/vocabulary_loss.py: `decoded_terms`; of few classes losses.py: `prediction_terms` |
| L_hidn, L_emb; L_attn | distillation/losses.py: `hidden_error`; `attention_error` |
| α₁ … α₄, t_i, t_f, β₁; the paper's values | homodistil_args.py; `PAPER` there |
| S_j = |θ_j·∂L/∂θ_j|, summed over a unit's slices, smoothed by β₁ | `training_step`; pruning/scores.py |

Masks are chosen as a step begins; then Trainer clips and steps the optimizer, and logs, evaluates and saves at the
step's end. So a student is never measured before a step at its widths. pruning/pruner.py holds schedule, scores and
masks. Beyond the paper: units are scored before the first step, too (`start_student`), each step's scores count as
multiples of their group's mean; where the plan has fewer layers, those leave that are missed least
(pruning/layers.py): they count a little less at every step, and are removed at the end (pruning/gates.py); heads start
in bases of uncorrelated channels (pruning/rotation.py).

`training/distillation_trainer.py` holds what all trainers of a student beside its teacher share, `compute_loss` among
it, and `training/exact_trainer.py` the loop and the checkpoints. What to change for another term, score or baseline
stands in CONTRIBUTING.md, "Where things are".
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import broadcast
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from typing_extensions import override

from .distillation.objective import Terms
from .export.facts import SIZES, MethodCard
from .files.checkpoints import SCORES_FILE
from .files.provenance import public_name
from .files.settings import differing
from .files.tensors import load_tensors
from .homodistil_args import HomoDistilTrainingArguments, refuse_at_kept_widths
from .models.architectures import architecture_of
from .models.resizing import evenly_matched
from .models.units import UnitTensors
from .models.widths import WidthPlan, widths_of
from .plans.advice import depth_reason
from .plans.budgets import FEWER_LAYERS_BELOW
from .pruning.gates import LayerGates
from .pruning.pruner import Pruner
from .pruning.schedule import PruningSchedule
from .training.distillation_trainer import DistillationTrainer
from .training.pair import Origins, ProjectionInit, resolve_student
from .training.ranks import check_same_masks
from .training_args import DistillationArguments

logger = logging.getLogger(__name__)

_NUM_MEASURED_TOKENS = 8192
"""Of the text by which heads are rotated, and layers chosen."""
_FP16_SCORING_SCALE = 1024.0

UNITS = "units (hidden channels, heads, channels of heads, FFN neurons)"


class HomoDistilTrainer(DistillationTrainer):
    """Prunes and distils an encoder; everything else is `transformers.Trainer`.

    The student starts as a copy of its teacher and loses its least important units along a cubic, until
    `pruning_end_fraction` of the run: hidden channels, heads and their channels, FFN neurons. Where the plan has fewer
    layers, those leave that are missed least. Scores start as means over `num_scoring_batches` batches of the intact
    teacher, and are updated at every step until the plan is reached. `HomoDistilTrainingArguments.paper` has the
    paper's settings, `OneShotTrainer` prunes at once.

    Args:
        model: the model that the student starts as a copy of: Hub name, folder, or a loaded model.
        args: the run's settings.
        teacher_model: the model that the student learns from. Default: a frozen copy of `model`. Where the
            teacher is fine-tuned for a task, a `model` that predicts masked words gets a fresh head of the teacher's
            kind, and without `args.student` and `plan` the student keeps the widths of `model`.
        train_dataset: tokenized rows, a stream of them, or a `Dataset` without `input_ids`: its columns of text and
            labels are found by their usual names, and tokenized with `processing_class`.
        eval_dataset: rows held out, or several sets by name.
        processing_class: tokenizer; saved with checkpoints and exports.
        data_collator: default: what the method's data need, for masked words [`MaskedLMCollator`].
        compute_metrics: as in `transformers.Trainer`.
        callbacks: as in `transformers.Trainer`.
        optimizers: `(optimizer, scheduler)`. Make the optimizer from the loaded `model`'s parameters. The trainer
            moves it to the student's parameters.
        optimizer_cls_and_kwargs: as in `transformers.Trainer`.
        preprocess_logits_for_metrics: as in `transformers.Trainer`.
        model_init: refused, as the student starts from `model`.
        compute_loss_func: refused, as it would replace the distillation loss.
        plan: widths from `resolve_plan`. Default: resolved from `args.student`.

    Raises:
        ValueError: anything that would fail later: impossible plan, unsupported model or setting, mismatched
            tokenizer, empty data, unwritable output folder.

    Example:
    ```python
    trainer = HomoDistilTrainer(
        model="google-bert/bert-base-uncased",
        args=HomoDistilTrainingArguments(output_dir="out", student="homobert-tiny", max_steps=28_000),
        train_dataset=train, eval_dataset=held_out, processing_class=tokenizer,
    )
    trainer.train()
    trainer.export("homobert-tiny")
    ```
    """

    method = "homodistil"
    allows_fewer_layers = True
    fewer_layers_below = FEWER_LAYERS_BELOW
    """Hidden size below which a budget of MACs leaves layers out; see docs/method.md."""
    arguments_class: ClassVar[type[DistillationArguments]] = HomoDistilTrainingArguments
    args: HomoDistilTrainingArguments
    card = MethodCard(
        student="HomoDistil student",
        made="made from {teacher} by pruning its width while distilling it",
        how=f"The student began as an exact copy of its teacher. While it was distilled, its least important {UNITS} "
        "were dropped a few at a time: HomoDistil. What was left is a smaller dense model.",
        paper="The student was made by HomoDistil, the method of",
        tags=("pruning", "distillation"),
    )
    schedule: PruningSchedule
    nested: Any = None
    """The smaller members of a nested student, a `NestedStudent`."""
    has_fresh_head: bool | None = None
    """Of a student that starts small beside a fine-tuned teacher; None of others."""

    # One optimizer step

    def begin_step(self) -> None:
        """If the schedule asks, choose masks and slice off the units that they drop; so with layers.

        A group of units keeps r(t) = r_f + (1 − r_f)·(1 − (t − t_i)/(t_f − t_i))³ of them (HomoDistil, section 3).
        """
        step, gates, are_layers_removed = self.state.global_step, self.pruner.gates, False
        # layers first, so that masks are chosen for the layers that are left
        if gates is not None and not gates.are_removed:
            self.pruner.fade(step, self.schedule)
            self.distillation.fade(gates.kept, gates.value)
            if are_layers_removed := gates.value == 0:
                self._leave_out(gates)
        masks = self.pruner.step(step, self.schedule, optimizer=self.bare_optimizer)
        if masks is None and not are_layers_removed:
            return
        # students that differ can't average their gradients, so stop before the step
        check_same_masks(self.accelerator, self.pruner.choices_digest, step=step, output_dir=self.args.output_dir)
        self.on_resized(masks)
        if self.pruner.plan_reached:
            logger.info("step %d: the student has reached its plan, %s", step, self.kept.to_json())

    def terms(self, model: nn.Module, inputs: dict[str, Any], counts: torch.Tensor) -> tuple[Terms, Any]:
        """As the base's; of a nested student those of the member that has its turn."""
        if self.nested is None or not model.training:
            return super().terms(model, inputs, counts)
        return self.nested.terms(model, inputs, counts, step=self.state.global_step)

    def on_resized(self, masks: UnitTensors | None) -> None:
        """Also the members of a nested student get narrower."""
        super().on_resized(masks)
        if self.nested is not None:
            self.nested.follow(self.pruner.groups, self.pruner.innermost)

    def _leave_out(self, gates: LayerGates) -> None:
        """Remove the layers that leave from the student, and compare it as it is without them."""
        kept = gates.kept
        self.pruner.remove_layers(gates, optimizer=self.bare_optimizer)
        self.distillation.leave_out(kept)
        self.matched_layers = self.distillation.matched_layers
        self.kept_heads = [self.kept_heads[layer] for layer in kept]
        self.card = replace(self.card, how=f"{self.card.how} {layers_in_words(self.args, kept, self.full)}")
        logger.info("layers %s stay of the student's %d, the others are removed", list(kept), len(self.full.layers))

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Forward and backward of one micro-batch; the last one of a step also updates the scores.

        S_j = |θ_j · ∂L/∂θ_j|, summed over the slices of each unit and smoothed (HomoDistil, section 3), until the plan
        is reached. The gradients are those of the whole step, not clipped yet; a skipped step scores nothing.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients and not self.step_log.num_bad_steps_in_row:
            scaler = self.accelerator.scaler
            self.pruner.score(gradient_scale=1.0 if scaler is None else scaler.get_scale())
        return loss

    def end_step(self) -> None:
        """A run of a single step has no other moment at which it could reach its plan."""
        super().end_step()
        if self.state.global_step == self.state.max_steps == 1:
            self.begin_step()

    # The start of a run

    def start_from(
        self, model: str | PreTrainedModel, teacher_model: str | PreTrainedModel | None, plan: WidthPlan | None
    ) -> Origins:
        """The base's start, or a small model beside a fine-tuned teacher; a general model gets a head."""
        if teacher_model is None:
            return super().start_from(model, teacher_model, plan)
        from .training.small_start import CARD, task_pair  # heads of tasks, for such a pair alone

        is_pruned = self.args.student is not None
        # a given plan prunes, unless a loaded model has its widths already
        if plan is not None:
            is_pruned = not isinstance(model, PreTrainedModel) or plan != widths_of(model.config)
        pair = task_pair(model, teacher_model, token=self.args.hub_token, seed=self.args.seed, is_pruned=is_pruned)
        if pair is None:
            return super().start_from(model, teacher_model, plan)
        student, teacher, self.has_fresh_head = pair
        self.card, self.started_as = CARD, public_name(student.name_or_path) or None
        numbers = [one.config.num_hidden_layers for one in (student, teacher)]
        self.matched_layers = evenly_matched(*numbers) if numbers[0] < numbers[1] else None
        if not is_pruned:
            named = differing(vars(self.args) | {"student": None}, type(self.args))
            refuse_at_kept_widths(named, "a model that keeps its widths")
            plan = widths_of(student.config)
        return super().start_from(student, teacher, plan)

    @classmethod
    def plan_of(cls, args: DistillationArguments, config: PreTrainedConfig) -> WidthPlan:
        """Like [`DistillationTrainer.plan_of`], but may leave out layers."""
        if not (cls.starts_with_all_layers and isinstance(args, HomoDistilTrainingArguments)):
            return super().plan_of(args, config)
        if args.nested:
            from .training.nested import nested_plans  # for such a student alone

            return next(iter(nested_plans(args, config).values()))
        return resolve_student(args, config, fewer_layers_below=cls.fewer_layers_below)

    @property
    def projection_init(self) -> ProjectionInit:
        """The setting of the same name."""
        return self.args.projection_init

    def set_up_student(self) -> None:
        """Make the pruner, and the members of a nested student."""
        self.plans = {"": self.plan}
        if self.args.nested:
            from .training.nested import NestedStudent, nested_plans  # for such a student alone

            self.plans = nested_plans(self.args, self.model.config, largest=self.plan)
            _, *others = self.plans.items()
            parts: Any = {"distillation": self.distillation, "held_out": self.held_out}
            self.nested = NestedStudent(self.model, dict(others), **parts)
            self.held_out = self.nested.held_out
            if self.optimizer is not None:
                self.optimizer.param_groups[0]["params"].extend(self.nested.own.parameters())
        self.pruner = Pruner(
            self.model,
            [*self.plans.values()][-1],
            floor=self.plan if self.args.nested else None,
            metric=self.args.importance_metric,
            multiple=self.args.width_multiple,
            sensitivity_smoothing=self.args.sensitivity_smoothing,
        )

    def plan_step(self, num_training_steps: int) -> float:
        """The last step at which masks are chosen."""
        return self.args.pruning_schedule(num_training_steps).end_step

    def begin_training(self) -> None:
        """The length of the run is known: lay out the schedule."""
        super().begin_training()
        if len(self.plan.layers) < len(self.full.layers):
            teacher = widths_of(self.distillation.teacher.exact.config)
            if reason := depth_reason(self.args.student or "", self.plan, teacher):
                logger.info(reason)
        self.schedule = self.args.pruning_schedule(self.state.max_steps)
        if self.nested is not None:
            self.nested.checkpoint_gradients()

    def start_student(self) -> None:
        """Choose the layers that stay, and the bases inside heads; then score the units of the intact student.

        Before that, fit the projections of a small start.
        """
        if self.has_fresh_head is not None:
            from .training.small_start import NUM_FITTING_BATCHES, fit_to_teacher  # for such a pair alone

            fit_to_teacher(
                self.model,
                self.distillation.teacher.exact,
                task=self.distillation.task,
                batches=(inputs for inputs, _ in itertools.islice(self.first_batches(), NUM_FITTING_BATCHES)),
                reduce=lambda sums: self.accelerator.reduce(sums.to(self.args.device)),
                has_fresh_head=self.has_fresh_head,
                matched_layers=self.matched_layers,
            )
        config, num_kept = self.model.config, len(self.plan.layers)
        if num_kept < len(self.full.layers):
            self._choose_layers(num_kept)
        if self.args.rotate_heads and architecture_of(config).rotates(config):
            self._rotate_heads()
        if self.args.num_scoring_batches and not self.is_finished and self.pruner.scores.needs_gradients:
            self._score_units()

    def _choose_layers(self, num_kept: int) -> None:
        """Let those layers leave that are missed least in the answers to the first training batches. Collective.

        The term is `DistillationLoss.answer`: errors of hidden states stay small where the last layers are missing.
        """
        from .pruning.layers import choose_layers, without_layers  # for a plan of fewer layers alone

        batches, distillation = list(self.first_batches(num_tokens=_NUM_MEASURED_TOKENS)), self.distillation
        self.model.eval()
        bar = self.bar("choosing layers", total=len(self.full.layers) - num_kept)
        with bar, torch.no_grad(), distillation.alone(distillation.answer):

            def distances(rests: list[tuple[int, ...]]) -> list[float]:
                found = torch.zeros(len(rests), device=self.args.device)
                for inputs, counts in batches:
                    with self.accelerator.autocast(), distillation.teacher.remembering():
                        for place, rest in enumerate(rests):
                            with without_layers(self.model, rest):
                                terms, _ = distillation.terms(self.model, dict(inputs), counts)
                            found[place] += terms[distillation.answer]
                bar.update()
                # shares of the global batches, so the ranks' add up
                return self.accelerator.reduce(found).tolist()

            gates = self.pruner.leave(choose_layers(self.model, num_kept, distances))
        logger.info("layers %s of %d stay: the others are missed least", list(gates.kept), len(self.full.layers))

    def _rotate_heads(self) -> None:
        """Give heads that will lose channels bases in which channels are uncorrelated and ordered. Collective.

        The student stays the same function; see [`rotate_heads`].
        """
        from .pruning.rotation import head_moments, rotate_heads, rotated_layers  # before the first step alone

        if not (layers := rotated_layers(self.kept, self.pruner.target)):
            return
        batches = (inputs for inputs, _ in self.first_batches(num_tokens=_NUM_MEASURED_TOKENS))
        moments = head_moments(self.model, batches, layers)
        # moments are sums over tokens, so the ranks' add up
        if self.args.world_size > 1:
            moments = {layer: self.accelerator.reduce(sums.to(self.args.device)) for layer, sums in moments.items()}
        rotate_heads(self.model, moments)
        for parameter in self.model.parameters():  # machines may differ in the last bits
            broadcast(parameter.data)
        logger.info(
            "rotate_heads: heads of %d layers get uncorrelated channels, so pruning loses less; outputs stay the same",
            len(layers),
        )

    def _score_units(self) -> None:
        """Score the units by the task's own loss: the mean over the first batches, without updates.

        All other terms are 0 for a copy of the teacher, but for rounding that would be scored in their place. A batch
        whose gradients are not finite is left out; a FloatingPointError where all are.
        """
        # Small gradients would be 0 in float16, and a scaler's first factor overflows, with no step to lower it.
        scale = _FP16_SCORING_SCALE if self.args.fp16 else 1.0
        self.model.eval()  # without dropout, which would make the student differ from its teacher
        num_seen = num_scored = 0
        for inputs, counts in itertools.islice(self.first_batches(), self.args.num_scoring_batches):
            num_seen += 1
            with self.accelerator.autocast(), self.distillation.alone(self.distillation.task.name):
                loss = self.compute_loss(self.model, inputs, num_items_in_batch=counts)
            (loss * scale).backward()
            gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
            # DDP wraps the student only later, so the ranks' gradients are averaged here.
            for gradient in gradients:
                gradient.copy_(self.accelerator.reduce(gradient, reduction="mean"))
            # n / (n + 1) makes the scores the mean of all batches that count
            if nn.utils.get_total_norm(gradients).isfinite():
                self.pruner.score(gradient_scale=scale, smoothing=num_scored / (num_scored + 1))
                num_scored += 1
            self.model.zero_grad(set_to_none=True)
        if num_seen and not num_scored:
            raise FloatingPointError(
                f"none of num_scoring_batches={num_seen} gave finite gradients, so units can't be scored; check the "
                "data, or use bf16 or float32 instead of fp16"
            )
        logger.info("units are scored on %d batch%s, before anything is dropped", num_scored, "es" * (num_scored != 1))

    # Logs, exports and checkpoints

    @property
    def is_finished(self) -> bool:
        """Whether the plan is reached."""
        return self.pruner.plan_reached

    def dense_student(self, *, format: str = "standard", allow_partial: bool = False) -> PreTrainedModel:
        """Like [`DistillationTrainer.dense_student`]; on its way a student has the nearest possible widths."""
        if self.is_finished or not allow_partial:
            return super().dense_student(format=format, allow_partial=allow_partial)
        from .export.export_folder import narrowed_copy  # for exports alone

        return narrowed_copy(self.pruner, format=format)

    @override
    def members(self) -> list[Any]:
        has_some = self.nested is not None and self.is_finished
        return self.nested.members(next(iter(self.plans)), self.plan, self.held_out_metrics) if has_some else []

    @override
    def write_members(self, folder: Path) -> None:
        if members := self.members():
            from .export.nested import write_nested  # for exports alone

            write_nested(folder, self.model, members, whole=self.full, probes=self.nested.probes())

    def run_facts(self, format: str = "standard") -> dict[str, dict[str, Any]]:
        """As the base's; of a nested student the evaluation is that of the largest, and costs and metrics of all."""
        facts = super().run_facts(format)
        if members := self.members():
            facts |= {SIZES: self.nested.facts_of(members), "evaluation": dict(members[0].evaluation)}
        return facts

    @override
    def state_to_save(self) -> dict[str, Any]:
        of_sizes = {} if self.nested is None else self.nested.state_to_save()
        return super().state_to_save() | {"pruner": self.pruner.state_dict()} | of_sizes

    def tensors_to_save(self) -> dict[str, torch.Tensor]:
        """The scores of all units."""
        return self.pruner.state_tensors()

    @override
    def check_state(self, state: Mapping[str, Any], folder: Path) -> None:
        super().check_state(state, folder)
        self.pruner.check_state(state["pruner"])

    def status(self) -> dict[str, float]:
        """The base's, and `kept_fraction_layers` where layers leave: each counts as much as its output does."""
        gates = self.pruner.gates
        return super().status() | ({} if gates is None else {"kept_fraction_layers": gates.kept_fraction})

    @override
    def take_state(self, state: Mapping[str, Any], folder: Path) -> None:
        gates, before = self.pruner.gates, state["pruner"].get("gates")
        # layers at 0 were removed, and don't come back
        if before and before["value"] == 0 and (gates is None or not gates.are_removed):
            self._leave_out(gates or self.pruner.leave(before["kept"]))
        super().take_state(state, folder)
        self.pruner.load_state(state["pruner"], load_tensors(folder / SCORES_FILE))
        if self.nested is not None:
            self.nested.narrow(self.pruner.groups, self.pruner.innermost)


def layers_in_words(args: HomoDistilTrainingArguments, kept: Sequence[int], full: WidthPlan) -> str:
    """A sentence for the card on the layers that left."""
    start, end = args.pruning_start_fraction, args.pruning_end_fraction
    when = f"between {start:.0%} and {end:.0%} of training" if start else f"during the first {end:.0%} of training"
    left = f"were phased out {when}" if end else "were removed before the first step"
    began = f"the {len(full.layers)} layers that it began with ({', '.join(map(str, kept))})"
    return f"It has {len(kept)} of {began}; the others {left}."
