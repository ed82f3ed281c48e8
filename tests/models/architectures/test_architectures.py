"""Every architecture with every head: the same function as teacher, student, export, compacted."""

import copy
import dataclasses

import pytest
import torch
from rows import each
from students import assert_same_logits, logits_of, make_batch, masked, sliced, zeroed_copy
from tiny_architectures import (
    FAMILIES,
    UNEVEN,
    UNIFORM,
    dtype_of,
    plan_of,
    tiny_architecture_config,
    tiny_architecture_teacher,
)

from homodistil_hf.distillation.projections import Projections
from homodistil_hf.distillation.tasks import task_of
from homodistil_hf.models.architectures.architecture import PROJECTIONS
from homodistil_hf.models.conversion import to_stock, to_student
from homodistil_hf.models.cost import count_parameters, model_facts, planned_facts
from homodistil_hf.models.resizing import keep_layers
from homodistil_hf.models.units import encoder_groups
from homodistil_hf.models.widths import widths_of
from homodistil_hf.pruning.compaction import compact, remove_padding
from homodistil_hf.pruning.rotation import head_moments, rotate_heads

pytestmark = [
    pytest.mark.parametrize(("architecture", "heads", "config"), FAMILIES.values(), ids=FAMILIES),
    pytest.mark.slow,
]
of_every_head = each("head", "heads")
PLANS = (UNIFORM, UNEVEN)


def student_of(architecture, head, dtype=None, **config):
    return (
        to_student(tiny_architecture_teacher(architecture, head, **config)).to(dtype or dtype_of(architecture)).eval()
    )


@of_every_head
def test_a_full_student_is_the_stock_model_bit_for_bit(architecture, head, config):
    teacher = tiny_architecture_teacher(architecture, head, **config)
    inputs = make_batch(head.kind.name)
    student = to_student(teacher)
    assert type(student) is head.student
    assert torch.equal(logits_of(student, inputs), logits_of(teacher, inputs))
    with torch.no_grad():
        assert float(student(**inputs).loss) == float(teacher(**inputs).loss)
    back = to_stock(student)
    assert type(back) is head.stock
    assert torch.equal(logits_of(back, inputs), logits_of(teacher, inputs))
    assert back.config.to_dict() == teacher.config.to_dict()


@each("plan", PLANS)
@of_every_head
def test_masked_compacted_saved_and_stock_give_the_same_logits(architecture, head, config, plan, tmp_path):
    if plan is UNIFORM and head is not architecture.heads[0]:
        pytest.skip("of a plan, a head sees the hidden size alone")
    student, inputs, plan = (
        student_of(architecture, head, **config),
        make_batch(head.kind.name),
        plan_of(architecture, plan, **config),
    )
    groups, masks = masked(student, plan)
    expected = logits_of(zeroed_copy(student, masks), inputs)
    compact(student, groups, masks, plan=plan)
    assert widths_of(student.config) == plan
    assert_same_logits(logits_of(student, inputs), expected)
    stock = to_stock(student)
    assert_same_logits(logits_of(stock, inputs), expected)
    for name, model in (("compact", student), ("standard", stock)):
        model.save_pretrained(tmp_path / name)
        loaded = type(model).from_pretrained(tmp_path / name, dtype=student.dtype).eval()
        assert_same_logits(logits_of(loaded, inputs), expected)
    again = to_student(stock).to(student.dtype).eval()
    remove_padding(again, plan)
    assert_same_logits(logits_of(again, inputs), expected)


ALONE = {
    "heads": {"num_attention_heads": 2},
    "channels": {"head_dim": 4},
    "ffn": {"intermediate_size": 40},
    "hidden": {"hidden_size": 24},
    "embedding": {"embedding_size": 12},
}


@each("widths", ALONE.values())
def test_each_kind_of_unit_can_go_alone(architecture, heads, config, widths, tmp_path):
    head = heads[0]
    full = widths_of(tiny_architecture_config(architecture, **config))
    if "embedding_size" in widths and full.embedding_size is None:
        pytest.skip("has no embedding channels of their own")
    # Smaller heads are scaled by rotary positions, which are of float32 whatever the model is.
    dtype = torch.float32 if architecture.is_rotary and "head_dim" in widths else dtype_of(architecture)
    student, inputs = student_of(architecture, head, dtype, **config), make_batch(head.kind.name)
    outer = {name: value for name, value in widths.items() if name in ("hidden_size", "embedding_size")}
    layer = dataclasses.replace(full.layers[0], **{name: widths[name] for name in widths.keys() - outer.keys()})
    plan = dataclasses.replace(full, layers=(layer,) * len(full.layers), **outer)
    groups, masks = masked(student, plan)
    expected = logits_of(zeroed_copy(student, masks), inputs)
    compact(student, groups, masks, plan=plan)
    student.save_pretrained(tmp_path)
    forms = [student, type(student).from_pretrained(tmp_path, dtype=dtype).eval()]
    if "hidden_size" not in widths:  # stock classes have no attention wider than their hidden size
        forms.append(to_stock(student))
    for model in forms:
        assert_same_logits(logits_of(model, inputs), expected)


@each("plan", PLANS)
@of_every_head
def test_formulas_count_what_there_is(architecture, head, config, plan):
    student = student_of(architecture, head, torch.float32, **config)
    assert planned_facts(student.config, head.student_name) == model_facts(student)
    sliced(student, plan_of(architecture, plan, **config))
    assert planned_facts(student.config, head.student_name) == model_facts(student)
    config = tiny_architecture_config(architecture, **config)
    encoder = architecture.encoder.stock(config)
    num_own = sum(value.numel() for name, value in encoder.named_parameters() if "pooler" not in name)
    assert count_parameters(widths_of(config), config) == num_own


@of_every_head
def test_every_parameter_has_its_units(architecture, head, config):
    student = student_of(architecture, head, **config)
    student.add_module(PROJECTIONS, Projections(32, 32, num_hidden_layers=2))
    groups = encoder_groups(student)
    named = {piece.parameter for group in groups.values() for piece in group.slices}
    outside = {name for name, _ in student.named_parameters()} - named
    assert all(name.endswith("bias") for name in outside)  # of words and labels


@of_every_head
def test_attention_is_the_same_eager_and_fused(architecture, head, config):
    dtype = torch.float32 if architecture.is_rotary else torch.float64  # its eager softmax is of float32
    student, inputs = student_of(architecture, head, dtype, **config), make_batch(head.kind.name)
    sliced(student, plan_of(architecture, UNEVEN, **config))
    expected = logits_of(student, inputs)
    for implementation in ("eager", "sdpa") if student._supports_sdpa else ("eager",):
        student.set_attn_implementation(implementation)
        assert_same_logits(logits_of(student, inputs), expected)


@of_every_head
def test_fewer_layers_are_those_of_the_model(architecture, head, config):
    student = student_of(architecture, head, **config)
    first = 0 if architecture.keeps_first_layer(student.config) else 1
    shallow = keep_layers(student, [first])
    assert widths_of(shallow.config).layers == widths_of(student.config).layers[first : first + 1]
    inputs = make_batch(head.kind.name)
    assert logits_of(shallow, inputs).isfinite().all()
    assert shallow.config.num_hidden_layers == 1
    if first == 0:
        with pytest.raises(ValueError, match=r"layers=\[1\] lack layer 0, which is built unlike the others: keep it"):
            keep_layers(student, [1])


@of_every_head
def test_hidden_states_begin_with_the_embeddings_and_end_with_the_last(architecture, head, config):
    student, inputs = student_of(architecture, head, **config), make_batch(head.kind.name)
    with torch.no_grad():
        outputs = student(inputs["input_ids"], attention_mask=inputs["attention_mask"], output_hidden_states=True)
        last = student.base_model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    assert len(outputs.hidden_states) == 3
    assert torch.equal(outputs.hidden_states[-1], last)


@of_every_head
def test_the_head_runs_at_masked_positions_only(architecture, head, config):
    if head.kind.name != "masked_lm":
        pytest.skip("of masked-LM models")
    student, inputs = student_of(architecture, head, **config), make_batch()
    positions = torch.tensor([0, 3, 17])
    unlabelled = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        everywhere = student(**unlabelled).logits.flatten(0, 1)
        chosen = student(**unlabelled, masked_positions=positions)
        states = student(**unlabelled, masked_positions=positions, skip_decoder=True)["decoder_inputs"]
        decoder = student.decoder_layer
        assert_same_logits(chosen.logits, everywhere[positions])
        assert_same_logits(torch.nn.functional.linear(states, decoder.weight, decoder.bias), everywhere[positions])


@of_every_head
def test_a_decoder_of_its_own_stays_its_own(architecture, head, config):
    if head.kind.name != "masked_lm":
        pytest.skip("of masked-LM models")
    if not config.get("legacy", architecture.model_type != "deberta-v2"):
        pytest.skip("its decoder is the table of words itself")
    teacher = tiny_architecture_teacher(architecture, head, **config | {"tie_word_embeddings": False})
    student, inputs = to_student(teacher), make_batch()
    assert_same_logits(logits_of(student, inputs), logits_of(teacher, inputs))
    before = copy.deepcopy(student)
    sliced(student, plan_of(architecture, UNIFORM, **config))
    assert student.get_output_embeddings().weight is not student.get_input_embeddings().weight
    assert len(before.get_output_embeddings().weight) == len(student.get_output_embeddings().weight)
    assert planned_facts(student.config, head.student_name) == model_facts(student)


@of_every_head
def test_masks_mean_the_same_however_they_come(architecture, head, config):
    student, inputs = student_of(architecture, head, **config), make_batch(head.kind.name)
    task = task_of(student)
    given = task.model_inputs(task.with_positions(inputs), student)
    given.pop("masked_positions", None)
    mask_BT = inputs["attention_mask"].bool()
    with torch.no_grad():
        hidden, expected = (
            student.base_model(**found).last_hidden_state[mask_BT]
            for found in (given, {name: inputs[name] for name in ("input_ids", "attention_mask")})
        )
    assert_same_logits(hidden, expected)


@of_every_head
def test_rotated_heads_keep_the_function_and_count_the_tokens_of_the_text(architecture, head, config):
    student = student_of(architecture, head, **config)
    if not architecture.rotates(student.config):
        pytest.skip("its heads are not rotated")
    inputs = make_batch(head.kind.name)
    expected = logits_of(student, inputs)
    moments = head_moments(student, [inputs, inputs], range(2))
    num_tokens = 2 * int(inputs["attention_mask"].sum())
    assert all((total[..., -1, -1] == num_tokens).all() for total in moments.values())
    rotate_heads(student, moments)
    torch.testing.assert_close(logits_of(student, inputs), expected, rtol=0, atol=1e-9)
