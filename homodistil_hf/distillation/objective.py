"""The loss of one batch, L = Σ factor · term: teacher forward, student forward, comparison, weighted sum.

`TERMS` lists the terms, `DistillationLoss.terms` computes them by the formulas of losses.py and vocabulary_loss.py,
and `DistillationLoss.total` adds them up. A new term is a line in `TERMS`, one in `terms`, its formula in losses.py,
and its factor, a setting `NAME_weight` (homodistil_args.py); one that compares hidden states needs projections, which
training/pair.py makes by the factors of those that do. Factors, the wrapped model and counts are arguments, so
nothing here depends on Trainer.

Shapes: B batch, T tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial, reduce
from typing import Any

import torch
from torch import nn

from ..models.architectures import architecture_of
from ..models.architectures.modeling_layerwise import LayerwiseModel
from ..models.resizing import matched_layers
from .attention_recorder import AttentionRecorder, Recorded
from .losses import attention_error, attention_scores, hidden_errors
from .tasks import Inputs, task_of
from .teacher import FrozenTeacher
from .vocabulary_loss import decoded_terms, decoder_of

Terms = dict[str, torch.Tensor]
States = Sequence[torch.Tensor]
HeadPairs = Callable[[int], tuple[torch.Tensor, torch.Tensor]]

PREDICTIONS, TOKENS, PAIRS, KNOWN = range(4)
"""Places in the result of `DistillationLoss.count`; that of known labels is there for a task's own."""
TERMS = {
    "mlm": PREDICTIONS,  # L_MLM; of models that predict masked words
    "task": KNOWN,  # in its place, of models of a task, whose rows may have no label
    "probe": PREDICTIONS,  # in its place, of models without a head, and only while units are scored
    "kl": PREDICTIONS,  # D_KL
    "hidden": TOKENS,  # L_hidn
    "embedding": TOKENS,  # L_emb
    "attention": PAIRS,  # L_attn
}
"""Term of the loss → what its sum is averaged over; its factor is the setting `NAME_weight`."""


class DistillationLoss:
    """Compares a student with its teacher.

    Args:
        student: with its projections.
        teacher: frozen.
        weights: term → factor, 0 for terms left out; hidden, embedding and attention terms with factor 0 are not
            computed.
        kept_heads: layer → indices of the same heads in teacher and student.
        matched_layers: the teacher's layer to compare each of the student's with; None: the same one.
    """

    autocast: Callable[[], AbstractContextManager] = staticmethod(nullcontext)
    """Context of what the student computes outside its own forward pass; a trainer sets its own."""
    answer = "kl"
    """Name of the term that compares what the models answer."""
    guesses_labels = False
    """Whether unknown labels of a task are guessed."""

    def __init__(
        self,
        student: LayerwiseModel,
        teacher: FrozenTeacher,
        *,
        weights: Mapping[str, float],
        kept_heads: HeadPairs,
        matched_layers: Sequence[int] | None = None,
    ):
        self.student = student
        self.teacher = teacher
        self.task = task_of(student)
        self.weights = dict.fromkeys(TERMS, 0.0) | dict(weights)
        self.kept_heads = kept_heads
        self._is_pre_norm = architecture_of(student.config).is_pre_norm
        layers = range(student.config.num_hidden_layers)
        self.matched_layers: Sequence[int] = layers if matched_layers is None else matched_layers
        self.attended_layers: Sequence[int] = layers
        self.factors: Mapping[str, Sequence[float]] = {}
        self._record_attention()

    def _record_attention(self) -> None:
        self.recorders: dict[str, AttentionRecorder] = {}
        if self.weights["attention"]:
            teacher = AttentionRecorder(self.teacher.fast, layers=self.attended_layers)
            self.recorders = {"teacher": teacher, "student": AttentionRecorder(self.student)}

    def fade(self, kept: Sequence[int], factor: float) -> None:
        """Multiply what `leave_out` would leave out by a factor; arguments as there."""
        layers = range(len(self.matched_layers))
        # states that are still compared once the other layers are gone, and layers whose attention is
        stays = {"hidden": matched_layers(kept, len(layers)), "attention": kept}
        self.factors = {
            name: [1.0 if layer in staying else factor for layer in layers] for name, staying in stays.items()
        }

    def leave_out(self, kept: Sequence[int]) -> None:
        """Compare a student from which layers were removed.

        In front of a removed layer is the state that its output had come to be, so the layer before it is compared
        with the teacher's state behind the removed one from now on.

        Args:
            kept: the layers that stayed, by their index before.
        """
        matched = matched_layers(kept, len(self.matched_layers))
        self.matched_layers = [self.matched_layers[layer] for layer in matched]
        self.attended_layers = [self.attended_layers[layer] for layer in kept]
        self.factors = {}
        self._record_attention()

    def count(self, inputs: Inputs) -> torch.Tensor:
        """Count the predictions, tokens and token pairs of a batch with labels, without padding: int64 `(3,)`.

        The terms are averaged over these. Of a task's own labels the known ones are counted, too, `(4,)`; each of
        several values a row is one.
        """
        inputs = self.task.with_positions(inputs)
        # filled on the device: the host would wait for a copy of its own numbers
        number = partial(inputs["masked_positions"].new_full, ())
        num_predictions = number(len(inputs["masked_positions"]))
        if "attention_mask" not in inputs:
            num_rows, length = inputs["input_ids"].shape
            counts = [num_predictions, number(num_rows * length), number(num_rows * length**2)]
        else:
            lengths_B = inputs["attention_mask"].sum(-1, dtype=torch.int64)
            counts = [num_predictions, lengths_B.sum(), lengths_B.square().sum()]
        if self.task.name == "task":
            counts.append(self.task.is_known(self.task.labels(inputs)).sum(dtype=torch.int64))
        return torch.stack(counts)

    def total(self, terms: Terms) -> torch.Tensor:
        """Return the weighted sum of all terms, a scalar.

        L = w_mlm·MLM + w_kl·KL(p_t ‖ p_s) + w_hidden·Σ_k MSE(H_t^k, H_s^k W_k) + w_embedding·MSE(E_t, E_s W_e)
        + w_attention·Σ_k MSE(A_t^k, A_s^k)   (HomoDistil, section 3; task models: w_task·task, no MLM)

        Args:
            terms: name → scalar.
        """
        # a factor of 1 costs no operation
        weighted = (term if self.weights[name] == 1 else self.weights[name] * term for name, term in terms.items())
        return reduce(torch.add, weighted)

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Inside the context, the loss is one term, unweighted: `answer`, or the task's own, `task.name`.

        For the latter unknown labels are guessed from the teacher, see [`Task.guessed`].
        """
        weights, self.weights = self.weights, dict.fromkeys(self.weights, 0.0) | {name: 1.0}
        self.guesses_labels = name == self.task.name and not self.task.is_pretraining
        try:
            yield
        finally:
            self.weights, self.guesses_labels = weights, False

    def terms(self, model: nn.Module, inputs: Inputs, counts: torch.Tensor) -> tuple[Terms, Any]:
        """Compute each term of the loss, unweighted.

        Args:
            model: the student as it is wrapped for training.
            inputs: a batch with labels. A batch that has passed `task.with_positions` saves a wait for the device.
            counts: the result of `count`, summed over the global batch.

        Returns:
            `(terms, outputs)`: `mlm` (or `task`), `kl`, `hidden`, `embedding`, `attention` → this batch's share of the
            average over the global batch, float32 scalars; and the student's output.
        """
        inputs = self.task.with_positions(inputs)
        # Same inputs for both models; with a vocabulary both stop before their decoders, which decoded_terms applies.
        forward: dict[str, Any] = self.task.model_inputs(inputs, self.student, self.teacher.exact)
        if self.task.has_vocabulary:
            forward["skip_decoder"] = True
        forward["output_hidden_states"] = bool(self.weights["hidden"] or self.weights["embedding"])
        with self._recording("teacher") as teacher_heads:
            teacher = self.teacher(**forward)
        with self._recording("student") as student_heads:
            student = model(**forward)
        with self.autocast():
            own_loss, kl = self._prediction_terms(student, teacher, inputs)
        sums, mask_BT = {self.task.name: own_loss, "kl": kl}, inputs.get("attention_mask")
        if forward["output_hidden_states"]:
            sums |= self._state_errors(teacher.hidden_states, student.hidden_states, mask_BT)
        if self.weights["attention"]:
            sums["attention"] = self._attention_error(teacher_heads, student_heads, mask_BT)
        # at least 1: a batch without predictions has a loss of 0, not 0 / 0
        counts = counts.clamp(min=1).float()
        divisors = {name: counts[TERMS[name]] for name in sums if name != "task"}
        if "task" in sums:  # averaged over rows, of whose values each was counted; guesses are known
            labels = self.task.labels(inputs)
            num_known = counts[KNOWN] / (labels.shape[-1] if labels.dim() > 1 else 1)
            divisors["task"] = counts[PREDICTIONS] if self.guesses_labels else num_known
        return {name: value / divisors[name] for name, value in sums.items()}, student

    def _prediction_terms(self, student: Any, teacher: Any, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        labels = self.task.labels(inputs)
        if not self.task.has_vocabulary:
            teacher_rows = self.task.rows(teacher, inputs)
            if self.guesses_labels:
                labels = self.task.guessed(labels, teacher_rows, inputs)
            return self.task.terms(self.task.rows(student, inputs), teacher_rows, labels)
        # both decoders run inside the loss, so that no model's logits are ever whole
        own_head, fast = self.student.decoder_layer, self.teacher.fast.decoder_layer
        return decoded_terms(
            decoder_of(own_head, student["decoder_inputs"]),
            decoder_of(fast, teacher["decoder_inputs"], dtype=self.teacher.dtype),
            labels,
            weights=(self.weights[self.task.name], self.weights["kl"]),
        )

    def _state_errors(self, teacher: States, student: States, mask_BT: torch.Tensor | None) -> Terms:
        """Return term → sum of its errors; the student's states are projected into the teacher's space."""
        projections: Any = self.student.projections
        # of each the teacher's states, the student's, and the matrix
        layers, embeddings = [], []
        if self.weights["hidden"]:
            # state 0 is the embeddings', so layer i ends in state i + 1
            targets, matrices = [teacher[i + 1] for i in self.matched_layers], [p.weight for p in projections.hidden]
            layers = list(zip(targets, student[1:], matrices, strict=True))
        if self.weights["embedding"]:
            embeddings = [(teacher[0], student[0], projections.embedding.weight)]
        with self.autocast():
            if self._is_pre_norm:
                of_layers = hidden_errors(layers, mask_BT, is_relative=True)
                of_embeddings = hidden_errors(embeddings, mask_BT)
            else:
                errors = hidden_errors([*layers, *embeddings], mask_BT)
                of_layers, of_embeddings = errors[: len(layers)], errors[len(layers) :]
        found = {"hidden": of_layers, "embedding": of_embeddings}
        return {name: self._sum(name, errors) for name, errors in found.items() if errors}

    def _attention_error(
        self, teacher: list[Recorded], student: list[Recorded], mask_BT: torch.Tensor | None
    ) -> torch.Tensor:
        errors = []
        for layer, recorded in enumerate(zip(teacher, student, strict=True)):
            # Only heads that both models have are compared, each model with the scale of its own scores.
            shapes = [self.recorders[name].attention_of(layer) for name in ("teacher", "student")]
            scores = [
                attention_scores(
                    *query_key,
                    num_heads=num_heads,
                    scaling=scaling,
                    heads=heads.to(query_key[0].device, non_blocking=True),
                )
                for query_key, (num_heads, _, scaling), heads in zip(
                    recorded, shapes, self.kept_heads(layer), strict=True
                )
            ]
            errors.append(attention_error(scores[0], scores[1], mask_BT))
        return self._sum("attention", errors)

    def _sum(self, name: str, errors: list[torch.Tensor]) -> torch.Tensor:
        """Sum the errors of layers, each with its factor."""
        factors = self.factors.get(name, [1.0] * len(errors))
        weighted = [e if f == 1 else f * e for e, f in zip(errors, factors, strict=True)]
        return weighted[0] if len(weighted) == 1 else torch.stack(weighted).sum()

    def _recording(self, name: str) -> AbstractContextManager[list[Recorded]]:
        return self.recorders[name].recording() if self.weights["attention"] else nullcontext([])
