"""The loss of each method, as its paper writes it, from logits, states and attention of stock models."""

import math
from typing import Any

import pytest
import torch
from fake_device import DEVICE, fake_device
from method_students import SAME_HEADS, student_of
from rows import each
from run_traces import logs_of
from students import WITHOUT_DROPOUT, make_batch, unlabelled
from tiny_models import make_teacher
from torch import nn

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.distillation.losses import cosine_error
from homodistil_hf.distillation.teacher import FrozenTeacher
from homodistil_hf.methods.baselines import minilm
from homodistil_hf.methods.baselines.distilbert import DistilBertTrainer, SoftDistillation
from homodistil_hf.methods.baselines.fresh import OwnLoss, ScratchTrainer, TinyBertTrainer
from homodistil_hf.methods.baselines.minilm import (
    MiniLMTrainer,
    MiniLMv2Trainer,
    RelationDistillation,
    relation_error,
)
from homodistil_hf.models.conversion import to_student

MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])

HALF_THE_MACS = student_of("distilbert")
BATCH = make_batch()
REAL = BATCH["attention_mask"].bool()
LABELLED = BATCH["labels"] != -100


def drawn(*shape: int, seed: int = 0, **options: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64, **options)


def sides(size: int, seed: int, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return drawn(2, 5, size, seed=seed, **options), drawn(2, 5, size, seed=seed + 1, **options)


def softmax(values: list[float]) -> list[float]:
    total = sum(math.exp(value) for value in values)
    return [math.exp(value) / total for value in values]


def slow_relation(sides: Any, row: int, head: int, token: int, *, num_heads: int, scaling: float) -> list[float]:
    """How one head of one token is related to every real token."""
    left, right = (side[row].unflatten(-1, (num_heads, -1)).tolist() for side in sides)
    others = [index for index in range(5) if MASK[row, index]]
    return softmax([scaling * sum(map(lambda a, b: a * b, left[token][head], right[o][head])) for o in others])


def slow_error(teacher: Any, student: Any, *, num_heads: int, scalings: tuple[float, float]) -> float:
    total = 0.0
    for row, token in MASK.nonzero().tolist():
        for head in range(num_heads):
            pair = [
                slow_relation(sides, row, head, token, num_heads=num_heads, scaling=scaling)
                for sides, scaling in zip((teacher, student), scalings, strict=True)
            ]
            total += sum(p * math.log(p / q) for p, q in zip(*pair, strict=True)) / num_heads
    return total


@pytest.mark.parametrize("chunk_elements", [1, 1 << 22])
@pytest.mark.parametrize("num_heads", [1, 3])
def test_relations_equal_a_slow_loop(num_heads, chunk_elements, monkeypatch):
    monkeypatch.setattr(minilm, "CHUNK_ELEMENTS", chunk_elements)
    teacher, student = sides(12, seed=0), sides(6, seed=5)
    settings = {"num_heads": num_heads, "scalings": (0.4, 0.7)}
    found = relation_error(teacher, student, token_mask_BT=MASK, **settings)
    assert float(found) == pytest.approx(slow_error(teacher, student, **settings), rel=1e-12)


@each("with_itself", [False, True])
def test_gradients_of_relations_are_those_of_the_formula(with_itself):
    teacher = sides(4, seed=0)
    left, right = sides(4, seed=5, requires_grad=True)

    def error(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        student = (left, left) if with_itself else (left, right)
        return relation_error(teacher, student, num_heads=2, scalings=(0.5, 1.5), token_mask_BT=MASK)

    assert torch.autograd.gradcheck(error, (left, right))


def test_relations_of_half_types_are_compared_in_float32():
    teacher, student = ([side.bfloat16() for side in sides(6, seed=seed)] for seed in (0, 5))
    settings = {"num_heads": 2, "scalings": (1.0, 1.0)}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = relation_error(tuple(teacher), tuple(student), **settings)
    exact = relation_error(tuple(s.float() for s in teacher), tuple(s.float() for s in student), **settings)
    assert found.dtype is torch.float32
    assert torch.equal(found, exact)


def test_cosines_by_hand():
    teacher = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]]])
    student = torch.tensor([[[4.0, 3.0], [-2.0, 0.0], [1.0, 0.0]]], requires_grad=True)
    error = cosine_error(teacher, student, torch.tensor([[1, 1, 0]]))
    assert float(error) == pytest.approx((1 - 24 / 25) + 2.0)
    error.backward()
    # d(1 − cos)/ds = −(t/|t| − cos·s/|s|)/|s|; opposite directions are a maximum.
    expected = torch.tensor([[[-(0.6 - 0.96 * 0.8) / 5, -(0.8 - 0.96 * 0.6) / 5], [0.0, 0.0], [0.0, 0.0]]])
    torch.testing.assert_close(student.grad, expected, rtol=0, atol=1e-6)


def test_cosines_of_half_types_are_float32_and_take_an_inference_tensor():
    student = drawn(1, 3, 4).bfloat16().requires_grad_()
    with torch.inference_mode():
        teacher = drawn(1, 3, 4, seed=1).bfloat16()
    error = cosine_error(teacher, student)
    error.backward()
    assert error.dtype is torch.float32
    assert student.grad is not None


@pytest.fixture
def started(make_trainer) -> Any:
    """A trainer whose student has its first weights, with a little noise so that biases count."""

    def make(trainer_class: type[HomoDistilTrainer], **settings: Any) -> HomoDistilTrainer:
        defaults = {"model": make_teacher(**WITHOUT_DROPOUT), "student": SAME_HEADS}
        trainer = make_trainer(trainer_class=trainer_class, **defaults | settings)
        if trainer_class is not DistilBertTrainer:
            trainer.start_student()
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        return trainer

    return make


def terms_of(trainer: HomoDistilTrainer) -> dict[str, float]:
    distillation = trainer.distillation
    with torch.no_grad():
        terms, _ = distillation.terms(trainer.model.train(), BATCH, distillation.count(BATCH))
    return {name: float(term) for name, term in terms.items()}


@torch.no_grad()
def outputs_of(trainer: HomoDistilTrainer) -> list[Any]:
    """Teacher and student on the whole batch, with everything that they compute on the way."""
    models = (trainer.distillation.teacher.exact, trainer.model)
    for model in models:
        model.set_attn_implementation("eager")
    return [m(**unlabelled(BATCH), output_hidden_states=True, output_attentions=True) for m in models]


def soft_kl(teacher: torch.Tensor, student: torch.Tensor, temperature: float = 1.0) -> float:
    loss = nn.KLDivLoss(reduction="batchmean")
    teacher, student = (logits[LABELLED] / temperature for logits in (teacher, student))
    return float(loss(student.log_softmax(-1), teacher.softmax(-1))) * temperature**2


def mlm_loss(student: torch.Tensor) -> float:
    return float(nn.functional.cross_entropy(student[LABELLED], BATCH["labels"][LABELLED]))


def test_distilberts_three_terms(started):
    trainer = started(DistilBertTrainer, student=HALF_THE_MACS, temperature=3.0)
    terms, (teacher, student) = terms_of(trainer), outputs_of(trainer)
    states = [output.hidden_states[-1][REAL] for output in (teacher, student)]
    cosine = nn.CosineEmbeddingLoss()(states[1], states[0], torch.ones(len(states[0])))
    assert terms == {
        "mlm": pytest.approx(mlm_loss(student.logits), rel=1e-5),
        "kl": pytest.approx(soft_kl(teacher.logits, student.logits), rel=1e-4),
        "soft_kl": pytest.approx(soft_kl(teacher.logits, student.logits, 3.0), rel=1e-4),
        "cosine": pytest.approx(float(cosine), rel=1e-5),
    }


def test_distilberts_loss_and_its_gradient(started):
    """Two passes over the vocabulary, at two temperatures, add up to the gradient of the plain formula."""
    trainer = started(DistilBertTrainer, student=HALF_THE_MACS)
    distillation, model = trainer.distillation, trainer.model
    terms, _ = distillation.terms(model, BATCH, distillation.count(BATCH))
    distillation.total(terms).backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    teacher = distillation.teacher.exact(**unlabelled(BATCH), output_hidden_states=True)
    student = model(**unlabelled(BATCH), output_hidden_states=True)
    soft = [output.logits[LABELLED] / 2 for output in (student, teacher)]
    states = [output.hidden_states[-1][REAL] for output in (student, teacher)]
    loss = 2 * nn.functional.cross_entropy(student.logits[LABELLED], BATCH["labels"][LABELLED])
    loss = loss + 5 * 4 * nn.KLDivLoss(reduction="batchmean")(soft[0].log_softmax(-1), soft[1].softmax(-1))
    loss = loss + nn.CosineEmbeddingLoss()(*states, torch.ones(len(states[0])))
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6)


def test_distilbert_starts_as_layers_of_its_teacher(make_trainer):
    trainer = make_trainer(
        trainer_class=DistilBertTrainer, model=make_teacher(num_hidden_layers=4), student=HALF_THE_MACS
    )
    deep, shallow = trainer.distillation.teacher.exact.bert, trainer.model.bert
    assert trainer.args.temperature == 2.0
    for position, index in enumerate((0, 3)):
        pairs = zip(shallow.encoder.layer[position].parameters(), deep.encoder.layer[index].parameters(), strict=True)
        assert all(torch.equal(one, other) for one, other in pairs)
    assert torch.equal(shallow.embeddings.word_embeddings.weight, deep.embeddings.word_embeddings.weight)


def test_scratch_is_the_plain_masked_lm_loss(started):
    trainer = started(ScratchTrainer)
    loss = mlm_loss(outputs_of(trainer)[1].logits)
    trainer.distillation.teacher = None  # not even asked
    assert terms_of(trainer) == {"mlm": pytest.approx(loss, rel=1e-5)}
    logits = trainer.model(**unlabelled(BATCH)).logits
    nn.functional.cross_entropy(logits[LABELLED], BATCH["labels"][LABELLED]).backward()
    expected = {name: p.grad.clone() for name, p in trainer.model.named_parameters() if p.grad is not None}
    trainer.model.zero_grad()
    terms, _ = trainer.distillation.terms(trainer.model, BATCH, trainer.distillation.count(BATCH))
    trainer.distillation.total(terms).backward()
    for name, gradient in expected.items():
        torch.testing.assert_close(trainer.model.get_parameter(name).grad, gradient, rtol=1e-4, atol=1e-6)


def test_tinyberts_terms(started):
    trainer = started(TinyBertTrainer)
    terms, (teacher, student) = terms_of(trainer), outputs_of(trainer)
    projections = trainer.model.projections
    projected = [projections.embedding(student.hidden_states[0])]
    projected += [w(h) for w, h in zip(projections.hidden, student.hidden_states[1:], strict=True)]
    models = list(zip((trainer.distillation.teacher.exact, trainer.model), (teacher, student), strict=True))
    errors = [
        float((theirs - own)[REAL].detach().square().mean())
        for theirs, own in zip(teacher.hidden_states, projected, strict=True)
    ]
    assert terms["embedding"] == pytest.approx(errors[0], rel=1e-4)
    assert terms["hidden"] == pytest.approx(sum(errors[1:]), rel=1e-4)
    pairs = (REAL[:, :, None] & REAL[:, None, :])[:, None].expand(-1, 4, -1, -1)
    scores = [[scores_of(model, layer, output) for model, output in models] for layer in range(2)]
    expected = sum(float((theirs - own)[pairs].square().mean()) for theirs, own in scores)
    assert terms["attention"] == pytest.approx(expected, rel=1e-4)
    assert terms["mlm"] == pytest.approx(mlm_loss(student.logits), rel=1e-5)


def self_attention(model: Any, layer: int) -> Any:
    return model.bert.encoder.layer[layer].attention.self


def states_of(model: Any, layer: int, name: str, output: Any) -> torch.Tensor:
    """`(B, T, heads × head size)`, from what goes into a layer."""
    return getattr(self_attention(model, layer), name)(output.hidden_states[layer])


def scores_of(model: Any, layer: int, output: Any) -> torch.Tensor:
    """Before the softmax, `(B, heads, T, T)`."""
    heads = self_attention(model, layer).num_attention_heads
    query, key = (states_of(model, layer, name, output).detach() for name in ("query", "key"))
    query, key = (states.unflatten(-1, (heads, -1)).transpose(1, 2) for states in (query, key))
    return query @ key.transpose(2, 3) / query.shape[-1] ** 0.5


def mean_kl(teacher_BNTT: torch.Tensor, student_BNTT: torch.Tensor) -> float:
    """Over heads and real tokens; nobody attends to padding."""
    kl = torch.where(teacher_BNTT > 0, teacher_BNTT * (teacher_BNTT.log() - student_BNTT.log()), 0.0).sum(-1)
    return float(kl.transpose(1, 2)[REAL].mean())


def relation(states_BTA: torch.Tensor, num_heads: int) -> torch.Tensor:
    heads_BNTD = states_BTA.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    products = heads_BNTD @ heads_BNTD.transpose(2, 3) / heads_BNTD.shape[-1] ** 0.5
    return products.masked_fill(~REAL[:, None, None, :], -torch.inf).softmax(-1)


def test_minilms_attention_and_value_relations(started):
    trainer = started(MiniLMTrainer)
    terms, outputs = terms_of(trainer), outputs_of(trainer)
    models = (trainer.distillation.teacher.exact, trainer.model)
    values = [relation(states_of(m, 1, "value", o), 4) for m, o in zip(models, outputs, strict=True)]
    assert terms["attention_relation"] == pytest.approx(
        mean_kl(outputs[0].attentions[-1], outputs[1].attentions[-1]), rel=1e-4
    )
    assert terms["value_relation"] == pytest.approx(mean_kl(*values), rel=1e-4)
    assert terms["mlm"] == pytest.approx(mlm_loss(outputs[1].logits), rel=1e-5)


@each(("num_relation_heads", "teacher_layer"), [(8, -1), (2, 0)])
def test_minilm_v2s_relations_of_any_heads(started, num_relation_heads, teacher_layer):
    """Here with half the teacher's heads."""
    student = SAME_HEADS | {"num_attention_heads": 2, "head_dim": 8}
    settings = {"num_relation_heads": num_relation_heads, "teacher_layer": teacher_layer}
    trainer = started(MiniLMv2Trainer, student=student, **settings)
    terms, outputs = terms_of(trainer), outputs_of(trainer)
    models = (trainer.distillation.teacher.exact, trainer.model)
    layers = (teacher_layer % 2, 1)
    for name in ("query", "key", "value"):
        relations = [
            relation(states_of(model, layer, name, output), num_relation_heads)
            for model, layer, output in zip(models, layers, outputs, strict=True)
        ]
        assert terms[f"{name}_relation"] == pytest.approx(mean_kl(*relations), rel=1e-4), name


# A device that computes while the host goes on


@pytest.mark.slow
@each("loss_class", [SoftDistillation, RelationDistillation, OwnLoss])
def test_the_host_waits_for_the_device_once_a_batch(loss_class):
    student, teacher = (to_student(make_teacher(**WITHOUT_DROPOUT)).to(DEVICE) for _ in range(2))
    weights = dict.fromkeys(("mlm", "kl", "soft_kl", "cosine", "relation"), 1.0)
    weights |= dict.fromkeys(("hidden", "embedding", "attention"), 0.0)
    relations = {"relations": {"relation": ("query", "key")}, "num_heads": 4}
    others = relations if loss_class is RelationDistillation else {}
    distillation = loss_class(student, FrozenTeacher(teacher), weights=weights, kept_heads=None, **others)
    inputs = {name: tensor.to(DEVICE) for name, tensor in BATCH.items()}
    with fake_device(has_float64=False) as waits:
        inputs = distillation.task.with_positions(inputs)
        terms, _ = distillation.terms(student, inputs, distillation.count(inputs))
        distillation.total(terms).backward()
    assert len(waits) == 1


def test_a_methods_weights_are_those_of_its_arguments(make_trainer):
    weights = {"mlm_weight": 0.5, "hidden_weight": 7.0, "embedding_weight": 2.0, "attention_weight": 3.0}
    trainer = make_trainer(trainer_class=TinyBertTrainer, student=SAME_HEADS, max_steps=1, **weights)
    assert {f"{name}_weight": value for name, value in trainer.distillation.weights.items() if value} == weights
    trainer.train()
    (terms,) = [entry for entry in logs_of(trainer) if "loss_hidden" in entry]
    total = sum(weight * terms[f"loss_{name.removesuffix('_weight')}"] for name, weight in weights.items())
    assert terms["loss"] == pytest.approx(total, rel=1e-6)
