"""Embedding models: a narrower encoder whose vectors stay in its teacher's space.

The student is a copy of the teacher's encoder, its pooling, a linear map that starts as the identity, and the
teacher's own further layers. At the start all losses and gradients are 0. So units are scored by the gradient of a
probe, Σ_b v_b·z_b, with a random direction v_b for each text: it measures how far a vector moves without a weight.
folder.py writes the export.

Shapes: B texts, H hidden channels, D channels of a vector.
"""

import copy
import dataclasses
import itertools
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from accelerate.utils import broadcast
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..distillation.losses import vector_error
from ..distillation.objective import DistillationLoss, Terms
from ..distillation.tasks import Inputs, Task
from ..distillation.teacher import FrozenTeacher
from ..export.facts import LATENCY, MethodCard
from ..files.messages import short_repr
from ..files.settings import ROW_LENGTH, refuse_without_part, setting
from ..files.strict_json import parse_json
from ..homodistil_args import AtOnceArguments
from ..models.architectures import max_tokens
from ..models.architectures.architecture import PROJECTIONS
from ..models.equality import tensors_digest
from ..models.tokenizers import padding_multiple
from ..models.units import UnitTensors
from ..models.widths import WidthPlan, widths_of
from ..plans.budgets import EMBEDDINGS_FEWER_LAYERS_BELOW, refuse_compact_budget
from ..trainer import HomoDistilTrainer
from ..training.evaluation_loop import HeldOutEvaluation, gathered, own_rows
from ..training.learning_rate import rate_for_width
from ..training.pair import Origins
from ..training_args import DistillationArguments
from .folder import export_embedding_model, layers_behind, student_model
from .metrics import agreement, compared
from .model import EmbeddingModel, load_embedding_model, reduced
from .texts import VECTOR, TextCollator, TextReader
from .vectors import TeacherVectors, learner_of

logger = logging.getLogger(__name__)

NUM_FIT_TEXTS = 4096
"""Texts that the map into the teacher's space is fitted to, where there are as many."""
NUM_AXES_TEXTS = 2048
"""Texts that the teacher's principal axes are those of."""
VECTOR_WEIGHT = 30.0
"""As much as `hidden_weight` by default, the proportion that was measured (docs/embeddings.md)."""
LEARNING_RATE = 1e-3
"""With a teacher of 384 channels and 64 sentences a step (docs/embeddings.md)."""
VECTORS_LEARNING_RATE = 3e-4
"""The same, with a start of 384 channels, for vectors that aren't its own: higher rates undo what it knows."""
_VECTORS_SHA256 = "teacher_vectors_sha256"
_HOW = (
    "A map from its pooled states to the vectors was fitted. Units, where any had to go, were removed by a probe of"
    " the vectors. Then encoder and map were distilled."
)
LEAST_SPREAD = 0.1
"""Of similarities between texts, as a share of the teacher's; below, all texts have the same vector."""


@dataclass
class EmbeddingDistilArguments(AtOnceArguments):
    """Settings of an embedding model's run: factor of the vectors, the student's space."""

    no_part: ClassVar = AtOnceArguments.no_part | {
        "mlm_weight": "there are no masked words; use vector_weight",
        "task_weight": "there are no labels; use vector_weight",
        "kl_weight": "there are no logits; use vector_weight",
        "attention_weight": "attention scores are not compared; leave it out",
        "mlm_probability": "there are no masked words; leave it out",
    }

    vector_weight: float = setting(
        VECTOR_WEIGHT, "Factor ≥ 0 of the squared distance between vectors, a text.", range="[0, inf)"
    )
    output: str = setting(
        "teacher",
        "Vectors: teacher (in its space), student (shorter, a space of its own), or N: along the teacher's N first "
        "principal axes.",
        also=int,
    )

    def __post_init__(self) -> None:
        # in Python and JSON a whole number, as a flag its text
        output: Any = self.output
        if isinstance(output, str) and output.lstrip()[:1] in set("-0123456789"):
            self.output = parse_json(output, "output")
        if self.plain and not isinstance(self.output, str):
            raise ValueError(
                f"plain=True with output={short_repr(self.output)}: shorter vectors need a Dense, which plain "
                "students have not; leave one of both out"
            )
        super().__post_init__()


class ExactLinear(nn.Linear):
    """A map that is applied outside of autocast, so that no micro-batch has it in a lower type (`lowered.py`)."""


class EmbeddingDistillation(DistillationLoss):
    """Compares vectors, and hidden states as [`DistillationLoss`] does.

    The student's pooled states pass the map `projections.dense`, then the teacher's own layers. The map starts as the
    identity and loses a column with each hidden channel. So vectors are in the teacher's space from the first step.
    Where rows bring their vectors, the map leads to these, and no teacher is asked.

    Args:
        student: with its projections, `dense` among them.
        teacher: frozen.
        model: the teacher's embedding model, for its pooling and layers, which are on the student's device.
        has_own_space: the student's vectors are its pooled states, in a space of its own; only the loss uses the map.
        weights: term → factor: `vector`, `hidden`, `embedding`, `attention`, and `probe`, 0 in training.
        kwargs: as in [`DistillationLoss`].
    """

    answer = "vector"

    def __init__(
        self,
        student: Any,
        teacher: FrozenTeacher,
        *,
        model: EmbeddingModel,
        weights: Mapping[str, float],
        has_own_space: bool = False,
        **kwargs: Any,
    ):
        super().__init__(student, teacher, weights=weights, **kwargs)
        self.model = model
        self.has_own_space = has_own_space

    def terms(self, model: nn.Module, inputs: Inputs, counts: torch.Tensor) -> tuple[Terms, Any]:
        """Each term of the loss on its own, unweighted; arguments as [`DistillationLoss.terms`].

        Returns:
            `(terms, outputs)`: `vector`, `hidden` and `embedding`, and while units are scored `probe` (Σ v·z_s with
            the directions v of the batch) → this batch's share of the average over the global batch.
        """
        inputs = self.task.with_positions(inputs)
        # taken out of the batch: no model has such an input
        given_BD = inputs.pop(VECTOR, None)
        num_vectors, num_tokens, _ = counts.clamp(min=1).float().unbind()
        forward: dict[str, Any] = self.task.model_inputs(inputs, self.student, self.teacher.exact)
        forward |= self.further_inputs(inputs)
        forward["output_hidden_states"] = bool(self.weights["hidden"] or self.weights["embedding"])
        if given_BD is None:
            teacher = self.teacher(**forward)
            teacher_BD = self.teacher_vectors(teacher, inputs)
        else:
            # given vectors are what the map leads to; layers behind it still apply
            teacher_BD = self._compared(self.model.behind(given_BD))
        student = model(**forward)
        student_BD = self.student_vectors(student, inputs)
        terms = {"vector": vector_error(student_BD, teacher_BD)}
        # the probe, Σ v·z_s: only while units are scored
        if self.weights[self.task.name]:
            terms[self.task.name] = (student_BD * self.probe(inputs, student_BD)).sum()
        terms = {name: term / num_vectors for name, term in terms.items()}
        # not with given vectors, which have no states: the trainer has set both weights to 0
        if forward["output_hidden_states"]:
            errors = self._state_errors(teacher.hidden_states, student.hidden_states, inputs.get("attention_mask"))
            terms |= {name: error / num_tokens for name, error in errors.items()}
        return terms, student

    def further_inputs(self, inputs: Inputs) -> dict[str, Any]:
        """What teacher and student are called with beside the batch."""
        return {}

    def teacher_vectors(self, outputs: Any, inputs: Inputs) -> torch.Tensor:
        """The vectors of the teacher's outputs, `(B, D)`."""
        # a copy: autograd can't save what the teacher made in inference mode
        return self._compared(self.model.behind(self.model.pool(outputs.last_hidden_state.clone(), inputs)))

    def student_vectors(self, outputs: Any, inputs: Inputs) -> torch.Tensor:
        """The same of the student's, in the teacher's space."""
        return self.mapped_and_own(self.model.pool(outputs.last_hidden_state, inputs))[0]

    def probe(self, inputs: Inputs, vectors_BD: torch.Tensor) -> torch.Tensor:
        """The direction in which each vector is probed."""
        return inputs["labels"]

    def mapped_and_own(self, own_BH: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors of pooled states in the teacher's space `(B, D)`, and an export's, which differ if `has_own_space`.

        In float32: near vectors differ by less than lower types round.
        """
        with torch.autocast(own_BH.device.type, enabled=False):
            mapped_BD = self._compared(self.model.behind(self.dense(own_BH)))
            return mapped_BD, self._compared(own_BH) if self.has_own_space else mapped_BD

    def _compared(self, vectors_BD: torch.Tensor) -> torch.Tensor:
        return compared(vectors_BD, self.model.similarity)

    @property
    def dense(self) -> Any:
        """The map from the student's pooled states to the teacher's."""
        return self.student.projections.dense


def pooled_by(forward: Callable[..., Any], inputs: Mapping[str, Any], model: EmbeddingModel) -> torch.Tensor:
    """The states that `model` pools, by the forward of an encoder."""
    forwarded = {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}
    return model.pool(forward(**forwarded).last_hidden_state.clone(), inputs)


def aims_of(
    teacher: FrozenTeacher, inputs: Mapping[str, Any], model: EmbeddingModel, *, exact: bool = True
) -> torch.Tensor:
    """The states that a student's map leads to: the teacher's pooled ones, or the vectors of the rows.

    `exact`: float32 rather than the type that the teacher has in training.
    """
    return inputs[VECTOR] if VECTOR in inputs else pooled_by(partial(teacher, exact=exact), inputs, model)


def fit_dense(products_HH: torch.Tensor, cross_HD: torch.Tensor, *, ridge: float = 1e-3) -> torch.Tensor:
    """The matrix W of least ‖P Wᵀ − T‖² + λ·‖W‖², for the student's pooled states P and the teacher's T.

    Args:
        products_HH: PᵀP, float64.
        cross_HD: PᵀT, float64.
        ridge: λ as a share of the mean of PᵀP's diagonal.

    Returns:
        `torch.Tensor`: `(D, H)`, float64.

    Example:
    ```python
    >>> states = torch.randn(50, 3, dtype=torch.float64)
    >>> found = fit_dense(states.T @ states, 2 * states.T @ states, ridge=0.0)
    >>> torch.allclose(found, 2 * torch.eye(3, dtype=torch.float64))
    True

    ```
    """
    # normal equations of the ridge regression: (PᵀP + λI) Wᵀ = PᵀT
    shrinkage = ridge * products_HH.diagonal().mean() * torch.eye(len(products_HH), dtype=torch.float64)
    return torch.linalg.solve(products_HH + shrinkage, cross_HD).T


def refitted(
    before_DH: torch.Tensor, products_HH: torch.Tensor, cross_HD: torch.Tensor, num_vectors: int
) -> torch.Tensor:
    """[`fit_dense`] towards a map W₀ that is there: W₀ + Δ with the Δ of least ‖P Δᵀ − (T − P W₀ᵀ)‖² + λ·‖Δ‖².

    λ grows with (channels / vectors)²: with fewer vectors than channels plain least squares would overfit.
    """
    ridge = max(1e-3, 0.1 * (len(products_HH) / num_vectors) ** 2)
    return before_DH + fit_dense(products_HH, cross_HD - products_HH @ before_DH.T, ridge=ridge)


class VectorEvaluation(HeldOutEvaluation):
    """Keeps the vectors of all rows, and compares them at the end.

    Memory: three float32 vectors a row, on the host: 9 MB for 1,024 rows of 768 channels. A rank holds all ranks'.

    Args:
        distillation: loss of the run, with student, teacher and map.
        kwargs: as in [`HeldOutEvaluation`].
    """

    def __init__(self, distillation: EmbeddingDistillation, **kwargs: Any):
        self.distillation = distillation
        super().__init__(teacher=distillation.teacher, task=distillation.task, **kwargs)

    def reset(self) -> None:
        """Forget the vectors of an earlier evaluation."""
        self.vectors: list[tuple[torch.Tensor, ...]] = []

    def measure(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Mean squared error of a batch's vectors, without rows that repeat another rank's."""
        rows = own_rows(inputs, self.accelerator)
        if len(rows["input_ids"]) == 0:
            return torch.zeros((), device=self.student.device)
        mapped, own, teacher = self._vectors(rows)
        self.vectors.append((mapped.cpu(), own.cpu(), teacher.cpu()))
        return vector_error(mapped, teacher) / len(own)

    def _vectors(self, rows: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Vectors of the student in the teacher's space, of the student in its own index, and of the teacher."""
        model = self.distillation.model
        with torch.no_grad(), torch.autocast(self.student.device.type, enabled=False):
            # the class's forward: accelerate has wrapped the instance's in autocast
            own = pooled_by(partial(type(self.student).forward, self.student), rows, model)
            aims = model.behind(aims_of(self.teacher, rows, model))
            return *self.distillation.mapped_and_own(own), compared(aims, model.similarity)

    def logits(self, inputs: Mapping[str, torch.Tensor], ignore_keys: Sequence[str] | None) -> torch.Tensor:
        """The student's vectors."""
        return self._vectors(inputs)[1]

    def results(self) -> dict[str, float]:
        """[`agreement`] over all rows of all ranks, and `loss`, their vector term."""
        batches = [batch for part in gathered(self.vectors) for batch in part]
        if not batches:
            return {}
        mapped, own, teacher = (torch.cat(side) for side in zip(*batches, strict=True))
        is_apart, similarity = self.distillation.has_own_space, self.distillation.model.similarity
        agreed = agreement(own, teacher, has_own_space=is_apart, similarity=similarity)
        return {"loss": float(vector_error(mapped, teacher)) / len(own)} | agreed

    def of_teacher(self, batches: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, float]:
        """The metrics of a perfect student."""
        of_one_space = {} if self.distillation.has_own_space else {"cosine": 1.0, "neighbours_in_index": 1.0}
        return {"loss": 0.0, "neighbours": 1.0, "spread": 1.0} | of_one_space


class EmbeddingDistilTrainer(HomoDistilTrainer):
    """Prunes the encoder of an embedding model and distils its vectors; needs unlabelled texts alone.

    L = w_vector·Σ‖z_s − z_t‖² + w_hidden·Σ_k MSE(H_t^k, H_s^k W_k) + w_embedding·MSE(E_t, E_s W_e),
    averaged over texts, or tokens.

    Args:
        model: folder of sentence-transformers, repository of the Hub, or [`EmbeddingModel`]. If `teacher_model` is
            given, `model` is an earlier student of that teacher, with its projections. The new student starts from it.
        args: the run's settings.
        teacher_model: the model that the student learns from; default: `model`. [`TeacherVectors`], of a teacher that
            can't be run here, make `model` the student's start, see [`learner_of`].
        train_dataset: texts in a column `text`, or rows with `input_ids`, as [`tokenize_texts`] makes them; beside
            vectors rows of [`tokenize_vectors`]. All other arguments are those of [`HomoDistilTrainer`].

    Raises:
        ValueError: as [`HomoDistilTrainer`]; or the model has a module or a setting that a student can't copy, or
            `output` is none that its student can have; beside vectors a setting that compares states with a teacher's,
            or rows without vectors.

    Example:
    ```python
    trainer = EmbeddingDistilTrainer(
        "sentence-transformers/all-MiniLM-L6-v2", EmbeddingDistilArguments("out", student="macs=0.25"),
        train_dataset=rows, eval_dataset=held_out,
    )
    trainer.train()
    trainer.export("small")  # SentenceTransformer("small")
    ```
    """

    train_dataset: Any
    distillation: EmbeddingDistillation
    args: EmbeddingDistilArguments
    method = "embedding"
    arguments_class = EmbeddingDistilArguments
    fewer_layers_below = EMBEDDINGS_FEWER_LAYERS_BELOW
    reported_metrics: ClassVar[tuple[str, ...]] = ("cosine", "neighbours", "neighbours_in_index")
    needs_head = False
    num_fit_vectors = NUM_FIT_TEXTS
    """That the map into the teacher's space is fitted to."""
    distillation_class: ClassVar[Any] = EmbeddingDistillation
    evaluation_class: ClassVar[type[VectorEvaluation]] = VectorEvaluation
    load: ClassVar[Callable[..., EmbeddingModel]] = staticmethod(load_embedding_model)
    """Loads the model of a name."""
    model_class: ClassVar[type[EmbeddingModel]] = EmbeddingModel
    card = MethodCard(
        student="pruned embedding model",
        made="pruned from {teacher} and distilled",
        how="Hidden channels, heads and neurons were removed by a probe of the vectors, and the vectors distilled.",
    )

    @classmethod
    def plan_of(cls, args: DistillationArguments, config: PreTrainedConfig) -> WidthPlan:
        """As of other models, but for budgets of the compact form."""
        refuse_compact_budget(args.student)
        return super().plan_of(args, config)

    def start_from(self, model: Any, teacher_model: Any, plan: WidthPlan | None) -> Origins:
        """Take the encoder out of the embedding model; arguments and return as [`DistillationTrainer.start_from`]."""
        args = self.args
        if isinstance(teacher_model, TeacherVectors):
            model, teacher_model = learner_of(model, teacher_model, token=args.hub_token), None
        # beside a teacher, `model` is an earlier student of it; else it is the teacher itself
        self.earlier_student: Any = None if teacher_model is None else model
        whole: Any = model if teacher_model is None else teacher_model
        self.embedding_model = whole if isinstance(whole, EmbeddingModel) else self.load(whole, token=args.hub_token)
        if (found := type(self.embedding_model)) is not self.model_class:
            raise ValueError(
                f"model is a {found.__name__}, {type(self).__name__} takes a {self.model_class.__name__}; "
                "EmbeddingDistilTrainer is for embedding models, SparseDistilTrainer for sparse encoders, "
                "MultiVectorDistilTrainer for multi-vector encoders"
            )
        check_output(args.output, self.embedding_model)
        encoder = self.embedding_model.encoder
        # vectors that are given in place of a teacher's model
        self.target: TeacherVectors | None = self.embedding_model.target
        if self.target is not None:
            check_for_vectors(args)
            args.hidden_weight = args.embedding_weight = 0.0
            args.remove_unused_columns = False  # the model's forward takes no vector
            self.card = dataclasses.replace(self.card, made=f"distilled from vectors of {self.target.name}", how=_HOW)
            if args.student is None:
                plan = widths_of(encoder.config)
        return (encoder, None, plan) if self.earlier_student is None else (self.earlier_student, encoder, plan)

    def tokenizer_of(self, processing_class: Any) -> Any:
        """The embedding model's own, if no other is given."""
        return self.embedding_model.tokenizer if processing_class is None else processing_class

    def reader_of(self, data: Mapping[str, Any], tokenizer: Any, model: PreTrainedModel) -> TextReader | None:
        """Reads texts where no vectors are given; arguments as [`DistillationTrainer.reader_of`]."""
        if self.target is not None:
            return None
        whole = self.embedding_model
        length = min(ROW_LENGTH, whole.settings.max_seq_length, max_tokens(whole.encoder.config))
        return TextReader(whole.tokenizer, length, whole.rows_of(length))

    def default_collator(self, task: Task, tokenizer: Any, config: PreTrainedConfig) -> Any:
        """Pads texts; arguments as [`DistillationTrainer.default_collator`]."""
        output = self.args.output
        dimension = self.embedding_model.dimension if isinstance(output, str) else output
        seed, multiple = self.args.seed, padding_multiple(config)
        return TextCollator(self.embedding_model.tokenizer, dimension=dimension, seed=seed, multiple=multiple)

    def default_learning_rate(self, task: Task, teacher_config: PreTrainedConfig, train_dataset: Any) -> float:
        """Of the rates that were measured for vectors; arguments as [`DistillationTrainer.default_learning_rate`]."""
        hidden_size = teacher_config.hidden_size
        model, measured = ("teacher", LEARNING_RATE) if self.target is None else ("start", VECTORS_LEARNING_RATE)
        rate = float(f"{rate_for_width(measured, hidden_size):.2g}")
        logger.info("learning_rate=%g, as none is given: for a %s of %d channels", rate, model, hidden_size)
        return rate

    def set_up_student(self) -> None:
        """Also freeze the pooler: no vector passes it, and DDP would wait for its gradient."""
        super().set_up_student()
        for name, parameter in self.model.named_parameters():
            if name.startswith("pooler."):
                parameter.requires_grad_(False)

    def state_to_save(self) -> dict[str, Any]:
        """The base's values, and a digest of what makes the teacher's vectors."""
        return super().state_to_save() | {_VECTORS_SHA256: self._vectors_sha256}

    def check_state(self, state: Mapping[str, Any], folder: Path) -> None:
        """As the base; also refuse other vectors, and another `plain`, by which their map is trained or not."""
        super().check_state(state, folder)
        if (saved := state.get("plain", self.args.plain)) != self.args.plain:  # earlier versions wrote none
            raise ValueError(
                f"checkpoint {folder} is of a run with plain={saved}, this one has plain={self.args.plain}; set it as "
                "it was, or name another output_dir"
            )
        if state.get(_VECTORS_SHA256, self._vectors_sha256) != self._vectors_sha256:
            raise ValueError(
                f"checkpoint {folder} is of a teacher that makes other vectors of its states (pooling, prompts, "
                "layers behind, or given vectors); resume with the teacher that the run began with, or name another "
                "output_dir"
            )

    @cached_property
    def _vectors_sha256(self) -> str:
        # of all that makes vectors of the encoder's states
        whole = self.embedding_model
        read = whole.settings
        told = [read.pooling, read.normalizes, read.lowers, read.truncate_dim, read.similarity or "cosine"]
        told += [read.prepared(""), getattr(whole, "activation", None), getattr(whole.target, "sha256", None)]
        told += [dense.activation for dense in whole.dense]
        return tensors_digest(*(dense.linear for dense in whole.dense), start=json.dumps(told, sort_keys=True))

    def make_evaluation(self) -> VectorEvaluation:
        """The measurement of vectors."""
        return self.evaluation_class(self.distillation, student=self.model, accelerator=self.accelerator)

    def make_distillation(self, teacher: FrozenTeacher) -> EmbeddingDistillation:
        """Vectors and states; arguments and return as [`DistillationTrainer.make_distillation`]."""
        projections = self.model.get_submodule(PROJECTIONS)
        # the map (D, H) from the student's pooled states to the teacher's, at first the identity; of given vectors 0,
        # fitted before any use
        num_channels = teacher.exact.config.hidden_size if self.target is None else self.target.dimension
        dense = ExactLinear(self.full.hidden_size, num_channels, bias=False, device=self.args.device)
        (nn.init.eye_ if self.target is None else nn.init.zeros_)(dense.weight)
        if self.earlier_student is not None:
            weight = self.earlier_student.get_submodule(PROJECTIONS).get_buffer("dense_weight")
            dense.load_state_dict({"weight": weight})
        dense.requires_grad_(not self.args.plain)  # it stays the identity, and exports leave it out
        # with the projections it is trained, cut with the hidden channels, and kept beside the weights
        projections.add_module("dense", dense)
        self.model._keys_to_ignore_on_save.add(f"{PROJECTIONS}.dense.weight")
        # Copies: exports are written from the caller's model, on the CPU.
        layers = tuple(
            dataclasses.replace(layer, linear=copy.deepcopy(layer.linear).to(self.args.device))
            for layer in self.embedding_model.dense
        )
        model = dataclasses.replace(self.embedding_model, dense=layers)
        output = self.args.output
        if not isinstance(output, str):
            # A buffer is saved and loaded with the projections; the model's last layer is the same memory.
            axes = broadcast(self._principal_axes(model, teacher, output))
            projections.register_buffer("axes", axes)
            self.model._keys_to_ignore_on_save.add(f"{PROJECTIONS}.axes")
            model = reduced(model, axes)
        loss: EmbeddingDistillation = self.distillation_class(
            self.model,
            teacher,
            model=model,
            weights=self.args.loss_weights(),
            kept_heads=self.matched_heads,
            matched_layers=self.matched_layers,
            has_own_space=output == "student",
        )
        return loss

    @torch.no_grad()
    def _principal_axes(self, model: EmbeddingModel, teacher: FrozenTeacher, num_axes: int) -> torch.Tensor:
        """The eigenvectors of Σ z zᵀ over the teacher's vectors z of the first training texts, `(N, D)`."""
        rows = list(itertools.islice(iter(self.train_dataset), NUM_AXES_TEXTS))
        products: Any = 0.0
        for indices in torch.arange(len(rows)).split(self.args.eval_batch_size):
            batch = self.data_collator([rows[index] for index in indices.tolist()])
            inputs = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
            vectors = model.behind(aims_of(teacher, inputs, model))
            vectors = vectors.cpu().double()  # Apple's devices have no float64
            products = products + vectors.T @ vectors
        # eigenvalues rise: flipped, the first columns are the principal axes
        axes_ND = torch.linalg.eigh(products).eigenvectors.flip(1).T[:num_axes]
        # an eigenvector may come with either sign: its largest channel becomes positive
        signs_N1 = axes_ND.gather(1, axes_ND.abs().argmax(1, keepdim=True)).sign()
        return (axes_ND * signs_N1).float().to(self.args.device)

    def start_student(self) -> None:
        """Score the units; a student of given vectors needs a map from its start on."""
        if self.target is not None:
            self.fit_map()
        super().start_student()

    def on_resized(self, masks: UnitTensors | None) -> None:
        """Also fit the map into the teacher's space to the channels that are left."""
        super().on_resized(masks)
        self.fit_map()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As [`DistillationTrainer.train`]; the map is fitted once more, to the states that the student ends with."""
        result = super().train(*args, **kwargs)
        if self.args.output != "student":
            self.fit_map()
        return result

    @torch.no_grad()
    def fit_map(self) -> None:
        """Move the map into the teacher's space to that of least squares on the first training texts; collective.

        Ridge regression towards the present map, stronger for fewer texts: with fewer texts than channels plain least
        squares would overfit. Where the hidden size stays (`plain`), nothing is fitted.
        """
        if self.args.plain:
            return
        distillation, whole, num_vectors = self.distillation, self.embedding_model, 0
        self.model.eval()
        # of a nested student all members, each with a map of its own
        models = [self.model, *(self.nested.models() if self.nested is not None else ())]
        sums: list[Any] = [0.0] * len(models)
        for batch, counts in self.first_batches(num_texts=self.num_fit_vectors):
            num_vectors += int(counts[0])
            target = aims_of(distillation.teacher, batch, whole, exact=False).cpu().double()
            for place, model in enumerate(models):
                with distillation.autocast():  # student and teacher in the type of their training; float32 is slower
                    own = pooled_by(partial(type(model).forward, model), batch, whole).cpu().double()
                # PᵀP and PᵀT side by side, (H, H + D), so that one message sums both over ranks
                sums[place] = sums[place] + torch.cat([own.T @ own, own.T @ target], 1)
        for model, of_model in zip(models, sums, strict=True):
            both = self.accelerator.reduce(of_model.float().to(self.args.device)).double().cpu()
            products, cross = both.split([both.shape[0], both.shape[1] - both.shape[0]], 1)
            weight = model.get_submodule(f"{PROJECTIONS}.dense").weight
            weight.copy_(refitted(weight.cpu().double(), products, cross, num_vectors))
            logger.info("the map into the teacher's space is fitted to %d channels", len(products))
        self.model.train()

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """As Trainer's; refuses to go on with a student that gives all texts the same vector."""
        if self.target is not None and not self.distillation.dense.weight.any():  # before the first step
            self.fit_map()
        metrics: Mapping[str, float] = super().evaluate(*args, **kwargs)
        spread = min((value for name, value in metrics.items() if name.endswith("_spread")), default=1.0)
        if not spread >= LEAST_SPREAD:  # of vectors that are no numbers, too
            raise FloatingPointError(
                f"the student's vectors have collapsed: similarities between texts vary by {spread:.0%} of the "
                f"teacher's; lower learning_rate={self.args.learning_rate:g} or raise vector_weight"
            )
        return metrics

    def run_facts(self, format: str = "standard") -> dict[str, dict[str, Any]]:
        """As [`DistillationTrainer.run_facts`]; given vectors have no teacher to be timed."""
        facts = super().run_facts(format)
        return {name: section for name, section in facts.items() if self.target is None or name != LATENCY}

    @torch.random.fork_rng(devices=[])  # copies draw weights first, and a run may go on after an export
    def write_export(self, folder: Path, format: str, allow_partial: bool) -> None:
        """Write a folder of sentence-transformers; arguments as [`DistillationTrainer.write_export`]."""
        check_format(format)
        dense = own_copy(self.distillation.dense)
        student: Any = self.dense_student(format=format, allow_partial=allow_partial)
        teacher, output, axes = self.embedding_model, self.args.output, self._axes
        model = student_model(student, dense, teacher if axes is None else reduced(teacher, axes))
        if output == "student":  # its pooled states are the vectors
            model = dataclasses.replace(
                model, dense=(), settings=dataclasses.replace(model.settings, truncate_dim=None)
            )
        export_embedding_model(
            model,
            folder,
            teacher=teacher,
            facts=self.run_facts(),
            has_own_space=output == "student",
            axes=axes,
            overwrite=True,
            also=self.write_members,
        )

    @property
    def _axes(self) -> torch.Tensor | None:
        """The teacher's axes that vectors are along, on the CPU; None where they are its whole vectors."""
        has_none = isinstance(self.args.output, str)
        return None if has_none else self.model.get_submodule(PROJECTIONS).get_buffer("axes").cpu()

    def members(self) -> list[Any]:
        """As the base's; all but the largest have a map of their own in front of the teacher's layers."""
        members, teacher, axes = super().members(), self.embedding_model, self._axes
        if self.nested is None or not members or self.args.output == "student":
            return members
        whole = teacher if axes is None else reduced(teacher, axes)
        maps = [own_copy(model.get_submodule(f"{PROJECTIONS}.dense")) for model in self.nested.models()]
        for place, dense in enumerate(maps, start=1):
            if layers := layers_behind(dense, whole):
                members[place] = dataclasses.replace(members[place], tensors=layers[0].linear.state_dict())
        return members


def own_copy(dense: nn.Linear) -> nn.Linear:
    """A copy of a map on the CPU, frozen."""
    weight = dense.weight.detach().cpu().clone()
    copied = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    copied.weight = nn.Parameter(weight, requires_grad=False)
    return copied


def check_format(format: str) -> None:
    """Refuse, by a ValueError, formats that sentence-transformers can't read."""
    if format != "standard":
        raise ValueError(f"format={format!r}: sentence-transformers reads stock modules alone; use 'standard'")


def check_for_vectors(args: EmbeddingDistilArguments) -> None:
    """Refuse, by a ValueError, settings that compare more of a teacher than its vectors."""
    of_states = [name for name in ("hidden_weight", "embedding_weight") if getattr(args, name)]
    remedies = dict.fromkeys(of_states, "it compares states with the teacher's, and there are none; leave it out")
    remedies["plain"] = "its students have no Dense, and one has to lead to the vectors; leave it out"
    refuse_without_part(args, remedies, run="a run with teacher_vectors")


def check_output(output: str | int, model: EmbeddingModel) -> None:
    """Refuse, by a ValueError, an `output` that a student of a model can't have."""
    if output in ("teacher", "student"):
        return
    most = model.dimension - 1
    if isinstance(output, bool) or not isinstance(output, int) or not 1 <= output <= most:
        raise ValueError(f"output={short_repr(output)}: expected 'teacher', 'student', or a length from 1 to {most}")
