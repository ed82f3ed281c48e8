from collections.abc import Callable
from functools import partial

import pytest
import torch
from fake_device import DEVICE, fake_device
from rows import each
from students import TASKS, UNEVEN, WITHOUT_DROPOUT, make_batch, make_student, masked, sliced, unlabelled, zeroed_copy
from task_cases import stock_loss
from tiny_models import make_teacher
from torch.nn import functional as F

from homodistil_hf.data.masking import UNKNOWN_CLASS, UNKNOWN_VALUE
from homodistil_hf.distillation.objective import DistillationLoss
from homodistil_hf.distillation.projections import Projections
from homodistil_hf.distillation.teacher import FrozenTeacher
from homodistil_hf.models.architectures.architecture import PROJECTIONS
from homodistil_hf.models.architectures.modeling_layerwise import LayerwiseModel
from homodistil_hf.models.conversion import to_student
from homodistil_hf.models.units import encoder_groups
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.pruning.compaction import compact

pytestmark = pytest.mark.slow

ALL = {"mlm": 1.0, "task": 1.0, "kl": 1.0, "hidden": 1.0, "embedding": 1.0, "attention": 1.0}
NUM_HEADS = 4
HeadPairs = Callable[[int], tuple[torch.Tensor, torch.Tensor]]

ALL_HEADS = WidthPlan(19, (LayerWidths(4, 5, 16), LayerWidths(4, 8, 41)))


def all_heads(layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(NUM_HEADS), torch.arange(NUM_HEADS)


def make_pair(
    student: LayerwiseModel,
    task: str = "masked_lm",
    *,
    weights: dict[str, float] = ALL,
    kept_heads: HeadPairs = all_heads,
    dtype: torch.dtype = torch.float32,
) -> DistillationLoss:
    """A student beside the teacher that it was made from."""
    teacher = to_student(make_teacher(task, **WITHOUT_DROPOUT)).to(student.dtype)
    return DistillationLoss(student, FrozenTeacher(teacher, dtype=dtype), weights=weights, kept_heads=kept_heads)


def on_device(task: str, **batch: torch.Tensor) -> tuple[DistillationLoss, dict[str, torch.Tensor]]:
    distillation = make_pair(make_student(task).to(DEVICE).train(), task)
    distillation.teacher.to(DEVICE)
    return distillation, {name: tensor.to(DEVICE) for name, tensor in (make_batch(task) | batch).items()}


def terms_of(distillation: DistillationLoss, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return distillation.terms(distillation.student, inputs, distillation.count(inputs))[0]


# The start: student = teacher


@each("attention", ["sdpa", "eager"])
@each("task", TASKS)
def test_an_unpruned_student_with_identity_projections_is_its_teacher(task, attention):
    distillation, inputs = make_pair(make_student(task, init="identity").train(), task), make_batch(task)
    for model in (distillation.student, distillation.teacher.exact):
        model.set_attn_implementation(attention)
    terms = {name: float(term.detach()) for name, term in terms_of(distillation, inputs).items()}
    own = terms.pop("mlm" if task == "masked_lm" else "task")
    assert terms == {"kl": 0.0, "hidden": 0.0, "embedding": 0.0, "attention": 0.0}
    stock = make_teacher(task, **WITHOUT_DROPOUT)
    stock.set_attn_implementation(attention)
    assert own == pytest.approx(stock_loss(stock, inputs), rel=1e-6)


@each("task", TASKS)
def test_in_bfloat16_student_and_fast_teacher_agree_up_to_the_projections_rounding(task):
    distillation = make_pair(make_student(task, init="identity").train(), task, dtype=torch.bfloat16)
    distillation.autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    with distillation.autocast():
        terms = terms_of(distillation, make_batch(task))
    assert [float(terms[name].detach()) for name in ("kl", "attention")] == [0.0, 0.0]
    # States are rounded to 8 bits when they are projected, an error of up to 2⁻⁸ of each.
    assert 0 < float(terms["embedding"].detach()) < 1e-5
    assert 0 < float(terms["hidden"].detach()) < 2e-5


# Terms of a pruned student against their definitions


def definition(
    distillation: DistillationLoss, inputs: dict[str, torch.Tensor], kept_heads: HeadPairs
) -> dict[str, float]:
    """Every term written out over tokens, layers and heads, from plain forward passes."""
    student, teacher = distillation.student, distillation.teacher.exact
    mask_BT = inputs["attention_mask"].bool()
    passes = [model(**unlabelled(inputs), output_hidden_states=True) for model in (student, teacher)]
    states = [outputs.hidden_states for outputs in passes]
    projections = [student.projections.embedding, *student.projections.hidden]
    squares = [
        float((projection(own)[mask_BT] - theirs[mask_BT]).square().mean())
        for projection, own, theirs in zip(projections, *states, strict=True)
    ]
    logits = [outputs.logits[inputs["labels"] >= 0] for outputs in passes]
    log_student, log_teacher = (rows.log_softmax(-1) for rows in logits)
    terms = {
        "mlm": float(torch.nn.functional.cross_entropy(logits[0], inputs["labels"][inputs["labels"] >= 0])),
        "kl": float((log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean()),
        "embedding": squares[0],
        "hidden": sum(squares[1:]),
        "attention": 0.0,
    }
    for layer in range(2):
        per_head = []
        for head_pair in zip(*kept_heads(layer), strict=True):
            scores = []
            for model, own_states, head in zip((teacher, student), reversed(states), head_pair, strict=True):
                attention = model.bert.encoder.layer[layer].attention.self
                size = attention.attention_head_size
                rows = slice(int(head) * size, (int(head) + 1) * size)
                query, key = (part(own_states[layer])[..., rows] for part in (attention.query, attention.key))
                scores.append(query @ key.transpose(1, 2) / 8**0.5)
            pairs_BTT = mask_BT[:, :, None] & mask_BT[:, None, :]
            per_head.append(float((scores[0] - scores[1])[pairs_BTT].square().mean()))
        terms["attention"] += sum(per_head) / len(per_head)
    return terms


def heads_of(masks: dict[str, torch.Tensor], *, are_sliced: bool = True) -> HeadPairs:
    def pairs(layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        kept = masks[f"head.{layer}"].nonzero().flatten()
        return kept, torch.arange(len(kept)) if are_sliced else kept

    return pairs


@torch.no_grad()
def test_terms_of_a_pruned_student_are_their_definitions():
    student, inputs = make_student(dtype=torch.float64), make_batch()
    kept_heads = heads_of(sliced(student, UNEVEN))
    distillation = make_pair(student, kept_heads=kept_heads)
    terms = {name: float(term) for name, term in terms_of(distillation, inputs).items()}
    expected = definition(distillation, inputs, kept_heads)
    assert terms.keys() == expected.keys()
    # The terms themselves are float32 numbers' sums in float64, divided by float32 counts.
    for name, value in expected.items():
        assert terms[name] == pytest.approx(value, rel=1e-6), name
        assert value > 1e-3


@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_no_term_tells_a_sliced_student_from_a_zeroed_one(task):
    student, inputs = make_student(task, dtype=torch.float64), make_batch(task)
    groups, masks = masked(student, UNEVEN)
    zeroed = zeroed_copy(student, masks)
    before = terms_of(make_pair(zeroed, task, kept_heads=heads_of(masks, are_sliced=False)), inputs)
    compact(student, groups, masks, plan=UNEVEN)
    after = terms_of(make_pair(student, task, kept_heads=heads_of(masks)), inputs)
    assert {name: float(term) for name, term in after.items()} == pytest.approx(
        {name: float(term) for name, term in before.items()}, rel=1e-9
    )


def test_a_teacher_of_another_hidden_size_is_compared_through_the_projections():
    student, inputs = make_student(), make_batch()
    student.add_module(PROJECTIONS, Projections(32, 48, num_hidden_layers=2, init="random"))
    teacher = FrozenTeacher(to_student(make_teacher(hidden_size=48, **WITHOUT_DROPOUT)))
    distillation = DistillationLoss(student, teacher, weights=ALL, kept_heads=all_heads)
    terms = terms_of(distillation, inputs)
    with torch.no_grad():
        theirs = teacher(**unlabelled(inputs), output_hidden_states=True).hidden_states[0]
        own = student(**unlabelled(inputs), output_hidden_states=True).hidden_states[0]
    mask_BT = inputs["attention_mask"].bool()
    expected = (student.projections.embedding(own) - theirs)[mask_BT].square().mean()
    assert float(terms["embedding"].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    encoder_groups(student)


# Averages over the global batch


@each("task", TASKS)
def test_shares_of_micro_batches_add_up(task):
    student = make_student(task)
    sliced(student, ALL_HEADS)
    distillation, inputs = make_pair(student, task), make_batch(task)
    whole = distillation.terms(student, inputs, distillation.count(inputs))[0]
    (gradients,) = torch.autograd.grad(distillation.total(whole), [student.bert.embeddings.word_embeddings.weight])
    rows = [{name: tensor[index : index + 1] for name, tensor in inputs.items()} for index in range(4)]
    counts = sum(distillation.count(row) for row in rows)
    assert torch.equal(counts, distillation.count(inputs))
    shares = [distillation.terms(student, row, counts)[0] for row in rows]
    for name, term in whole.items():
        total = sum(float(share[name].detach()) for share in shares)
        assert total == pytest.approx(float(term.detach()), rel=1e-5)
    sums = sum(
        torch.autograd.grad(distillation.total(share), [student.bert.embeddings.word_embeddings.weight])[0]
        for share in shares
    )
    torch.testing.assert_close(sums, gradients, rtol=1e-4, atol=1e-5)


def test_counts_by_hand():
    distillation = make_pair(make_student())
    inputs = {"input_ids": torch.zeros(2, 5, dtype=torch.int64)}
    inputs["labels"] = torch.tensor([[-100, 3, -100, 4, -100], [1, -100, -100, -100, -100]])
    assert distillation.count(inputs).tolist() == [3, 10, 50]
    inputs["attention_mask"] = torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])
    counts = distillation.count(inputs)
    assert counts.tolist() == [3, 4 + 2, 16 + 4]
    assert counts.dtype == torch.int64


def test_without_padding_no_mask_is_needed():
    student = make_student()
    sliced(student, ALL_HEADS)
    distillation, inputs = make_pair(student), make_batch()
    inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    with_mask = terms_of(distillation, inputs)
    del inputs["attention_mask"]
    without = terms_of(distillation, inputs)
    for name, term in with_mask.items():
        assert float(without[name].detach()) == pytest.approx(float(term.detach()), rel=1e-6)


@each("task", TASKS)
def test_what_stands_in_padding_and_how_long_it_is_change_nothing(task):
    student = make_student(task)
    sliced(student, ALL_HEADS)
    distillation, inputs = make_pair(student, task), make_batch(task)
    before = terms_of(distillation, inputs)
    inputs = {
        name: F.pad(tensor, (0, 3), value=-100 if name == "labels" else 0) if tensor.dim() == 2 else tensor
        for name, tensor in inputs.items()
    }
    inputs["input_ids"] = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 77)
    for name, term in terms_of(distillation, inputs).items():
        assert float(term.detach()) == pytest.approx(float(before[name].detach()), rel=1e-5)


@each("task", TASKS)
def test_a_batch_without_labels_teaches_by_its_states_alone(task):
    student, inputs = make_student(task).train(), make_batch(task)
    sliced(student, ALL_HEADS)
    inputs |= {name: torch.full_like(inputs[name], -100) for name in inputs.keys() - unlabelled(inputs).keys()}
    distillation = make_pair(student, task)
    terms = terms_of(distillation, inputs)
    assert float(terms["kl"].detach()) == 0
    assert float(terms["mlm" if task == "masked_lm" else "task"].detach()) == 0
    assert float(terms["hidden"].detach()) > 0
    distillation.total(terms).backward()
    assert all(bool(p.grad.isfinite().all()) for p in student.parameters() if p.grad is not None)


# A device that computes while the host goes on


@each("task", TASKS)
def test_the_host_waits_for_the_device_once_a_batch(task):
    """And the device may be one without float64."""
    distillation, inputs = on_device(task)
    with fake_device(has_float64=False) as waits:
        inputs = distillation.task.with_positions(inputs)
        assert len(waits) == 1
        distillation.total(terms_of(distillation, inputs)).backward()
    assert len(waits) == 1


@each("attention", ["sdpa", "eager"])
@each("task", TASKS)
def test_known_positions_need_no_wait(task, attention):
    distillation, inputs = on_device(task, masked_positions=torch.tensor([1, 3]))
    for model in (distillation.student, distillation.teacher.exact):
        model.set_attn_implementation(attention)
    with fake_device() as waits:
        distillation.total(terms_of(distillation, inputs)).backward()
    assert waits == []


# Weights


def test_the_total_is_the_weighted_sum():
    weights = {"mlm": 2.0, "kl": 3.0, "hidden": 5.0, "embedding": 7.0, "attention": 11.0, "task": 13.0}
    distillation = make_pair(make_student(), weights=weights)
    powers = {name: torch.tensor(10.0**i) for i, name in enumerate(weights)}
    assert float(distillation.total(powers)) == 2 + 30 + 500 + 7_000 + 110_000 + 1_300_000
    assert float(distillation.total({"task": torch.tensor(4.0), "kl": torch.tensor(1.0)})) == 52 + 3


@pytest.mark.parametrize("off", ["hidden", "embedding", "attention"])
def test_what_weighs_nothing_is_not_computed(off):
    student, inputs = make_student(), make_batch()
    reference = terms_of(make_pair(student), inputs)
    distillation = make_pair(student, weights=ALL | {off: 0.0})
    terms = terms_of(distillation, inputs)
    assert terms.keys() == reference.keys() - {off}
    assert {name: float(term.detach()) for name, term in terms.items()} == {
        name: float(reference[name].detach()) for name in terms
    }
    assert bool(distillation.recorders) == (off != "attention")


def test_without_state_terms_no_states_are_kept():
    distillation = make_pair(make_student(), weights=ALL | {"hidden": 0.0, "embedding": 0.0, "attention": 0.0})
    terms, outputs = distillation.terms(distillation.student, make_batch(), torch.ones(3))
    assert terms.keys() == {"mlm", "kl"}
    assert outputs.hidden_states is None


@pytest.mark.parametrize("off", [None, "mlm", "kl", "hidden", "embedding", "attention"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("task", TASKS)
def test_every_trainable_parameter_gets_a_gradient(task, tied, off):
    """DDP waits for each of them."""
    weights = ALL | ({} if off is None else {off: 0.0})
    student = make_student(task, tie_word_embeddings=tied).train()
    num_layers = 2 if weights["hidden"] else 0
    projections = Projections(32, 32, num_hidden_layers=num_layers, with_embedding=weights["embedding"] > 0)
    student.add_module(PROJECTIONS, projections)
    distillation = make_pair(student, task, weights=weights)
    distillation.total(terms_of(distillation, make_batch(task))).backward()
    assert {name for name, p in student.named_parameters() if p.requires_grad and p.grad is None} == set()
    frozen = {name for name, p in student.named_parameters() if not p.requires_grad}
    assert frozen == ({"cls.predictions.bias"} if task == "masked_lm" and not tied else set())
    assert all(parameter.grad is None for parameter in distillation.teacher.exact.parameters())


def test_terms_are_float32_whatever_the_autocast_type():
    student = make_student()
    sliced(student, ALL_HEADS)
    distillation = make_pair(student, dtype=torch.bfloat16)
    exact = terms_of(make_pair(student), make_batch())
    distillation.autocast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    with distillation.autocast():
        terms = terms_of(distillation, make_batch())
    for name, term in terms.items():
        assert term.dtype == torch.float32
        assert term.dim() == 0
        assert float(term.detach()) == pytest.approx(float(exact[name].detach()), rel=0.03)


LABELLED = {
    "classes": ({"num_labels": 3}, torch.tensor([0, 1, 2, 1])),
    "values": ({"num_labels": 2, "problem_type": "regression"}, torch.arange(8.0).view(4, 2)),
    "several": ({"num_labels": 2, "problem_type": "multi_label_classification"}, torch.eye(2).repeat(2, 1)),
}


@each("unknown", [0, 3])
@each("kind", LABELLED)
def test_the_loss_of_labels_is_averaged_over_known_ones(kind, unknown):
    config, labels = LABELLED[kind]
    student = make_student("sequence_classification", **config)
    teacher = FrozenTeacher(to_student(make_teacher("sequence_classification", **WITHOUT_DROPOUT, **config)))
    distillation = DistillationLoss(student, teacher, weights={"task": 1.0, "kl": 1.0}, kept_heads=all_heads)
    inputs = unlabelled(make_batch()) | {"labels": labels.clone()}
    rows = [{name: tensor[row : row + 1] for name, tensor in inputs.items()} for row in range(4)]
    alone = torch.stack([terms_of(distillation, row)["task"] for row in rows])
    inputs["labels"][:unknown] = UNKNOWN_CLASS if kind == "classes" else UNKNOWN_VALUE
    terms = terms_of(distillation, inputs)
    torch.testing.assert_close(terms["task"], alone[unknown:].mean())
    assert distillation.count(inputs).tolist()[3] == (4 - unknown) * (labels.numel() // 4)
