"""Llama's layout: queries that share keys, norms of heads, padding on either side, plans of public sizes."""

import dataclasses

import pytest
import torch
import transformers
from students import assert_same_logits, logits_of, make_batch, sliced
from tiny_architectures import UNEVEN, UNIFORM, plan_of, tiny_architecture_config, tiny_architecture_teacher

from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.conversion import to_stock, to_student
from homodistil_hf.models.units import encoder_groups
from homodistil_hf.models.widths import LayerWidths, widths_of
from homodistil_hf.plans.resolve import resolve_plan
from homodistil_hf.pruning.compaction import compact
from homodistil_hf.pruning.masks import full_masks, scheduled_plan


def grouped_student(name="llama", **config):
    architecture = ARCHITECTURES[name]
    return to_student(tiny_architecture_teacher(architecture, architecture.heads[0], **config)).eval()


@pytest.mark.parametrize("name", ["eurobert", "llama", "mistral", "qwen3", "gemma3_text"])
def test_a_key_and_the_queries_that_share_it_leave_together(name):
    student = grouped_student(name)
    layer = student.base_model.layers[0].self_attn
    before = {which: getattr(layer, f"{which}_proj").weight.clone() for which in "qkvo"}
    groups, masks = encoder_groups(student), full_masks(encoder_groups(student))
    assert {group: len(masks[group]) for group in ("head.0", "value_output.0", "query_key.all")} == {
        "head.0": 2,
        "value_output.0": 16,
        "query_key.all": 4,
    }
    masks["head.0"][0] = masks["head.1"][0] = False
    plan = dataclasses.replace(widths_of(student.config), layers=(LayerWidths(2, 8, 64),) * 2)
    compact(student, groups, masks, plan=plan)
    # of 4 queries and 2 keys of 8 channels, the last two and the last
    assert torch.equal(layer.q_proj.weight, before["q"][16:])
    assert torch.equal(layer.k_proj.weight, before["k"][8:])
    assert torch.equal(layer.v_proj.weight, before["v"][8:])
    assert torch.equal(layer.o_proj.weight, before["o"][:, 16:])
    assert (student.config.num_attention_heads, student.config.num_key_value_heads) == (2, 1)
    assert layer.num_key_value_groups == 2


def test_a_pair_of_channels_leaves_queries_keys_and_their_norms():
    student = grouped_student("qwen3")
    layer = student.base_model.layers[1].self_attn
    before = {name: value.clone() for name, value in layer.named_parameters()}
    groups, masks = encoder_groups(student), full_masks(encoder_groups(student))
    masks["query_key.all"][1] = False
    for index in range(2):
        masks[f"value_output.{index}"][torch.tensor([0, 3, 8, 9])] = False
    plan = dataclasses.replace(widths_of(student.config), layers=(LayerWidths(4, 6, 64),) * 2)
    compact(student, groups, masks, plan=plan)
    kept = torch.tensor([0, 2, 3, 4, 6, 7])  # without pair 1, the channels 1 and 1 + 8/2
    assert torch.equal(layer.q_norm.weight, before["q_norm.weight"][kept])
    assert torch.equal(layer.k_norm.weight, before["k_norm.weight"][kept])
    assert torch.equal(layer.q_proj.bias, before["q_proj.bias"].view(4, 8)[:, kept].flatten())
    assert torch.equal(layer.k_proj.bias, before["k_proj.bias"].view(2, 8)[:, kept].flatten())
    assert layer.o_proj.weight.shape == (32, 24)
    assert student.config.rotary_pairs == {"all": [0, 2, 3]}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("name", ["eurobert", "llama", "mistral", "qwen3", "gemma3_text"])
def test_padding_on_either_side_changes_no_state(name, side):
    student = grouped_student(name)
    sliced(student, plan_of(ARCHITECTURES[name], UNEVEN))
    ids = torch.arange(5, 12)[None]
    padding, real = torch.zeros(1, 3, dtype=torch.long), torch.ones_like(ids)
    parts = [(padding, padding), (ids, real)]
    tokens, mask = (torch.cat(part, 1) for part in zip(*(parts if side == "left" else parts[::-1]), strict=True))
    with torch.no_grad():
        alone = student.base_model(ids).last_hidden_state
        padded = student.base_model(tokens, attention_mask=mask).last_hidden_state[mask.bool()]
    torch.testing.assert_close(padded[None], alone, rtol=1e-4, atol=1e-4)


def test_embeddings_keep_their_scale_and_a_stock_table_makes_up_for_it():
    student = grouped_student("gemma3_text")
    table = student.get_input_embeddings()
    whole = table.weight.clone()
    masks = sliced(student, plan_of(ARCHITECTURES["gemma3_text"], UNIFORM))
    assert float(table.embed_scale) == pytest.approx(32**0.5)
    assert torch.equal(table.weight, whole[:, masks["hidden"]])
    stock = to_stock(student).get_input_embeddings()
    assert float(stock.embed_scale) == pytest.approx(16**0.5)
    ids = torch.arange(12)
    torch.testing.assert_close(stock(ids), table(ids))


def test_scaled_frequencies_keep_heads_whole():
    scaled = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
    student = grouped_student("llama", rope_parameters=scaled)
    before, plan = logits_of(student, make_batch("sequence_classification")), widths_of(student.config)
    assert plan.traits.rotary_kinds == ()
    masks = sliced(student, dataclasses.replace(plan, layers=(LayerWidths(2, 8, 32),) * 2))
    assert int(masks["query_key.0"].sum()) == 8  # of the key that is left
    found = logits_of(to_stock(student), make_batch("sequence_classification"))
    assert_same_logits(found, logits_of(student, make_batch("sequence_classification")))
    assert not torch.allclose(found, before)
    with pytest.raises(
        ValueError, match="student head_dim=4, but this teacher's positions are scaled for whole heads"
    ):
        resolve_plan("16-2x4-32", student.config)


def test_heads_whose_number_must_divide_the_hidden_size_are_padded():
    student = grouped_student("eurobert", num_key_value_heads=4)
    plan = dataclasses.replace(widths_of(student.config), hidden_size=20, layers=(LayerWidths(3, 8, 32),) * 2)
    assert not plan.is_stock
    assert plan.padded().layers[0] == LayerWidths(4, 8, 32)
    sliced(student, plan)
    stock = to_stock(student)
    assert stock.config.num_attention_heads == stock.config.num_key_value_heads == 4
    assert_same_logits(logits_of(stock, make_batch()), logits_of(student, make_batch()))
    config = tiny_architecture_config(ARCHITECTURES["eurobert"])  # of 2 heads a key
    with pytest.raises(ValueError, match='hidden_size=7 cannot be split into at least 4 .*"hidden_size": 6, "num_att'):
        resolve_plan("7-4x8-32", config)


def test_a_number_of_heads_that_breaks_a_group_is_refused_with_the_nearest():
    config = tiny_architecture_config(ARCHITECTURES["qwen3"])
    message = "student num_attention_heads=3, but 2 heads of this teacher share a key and leave together; nearest "
    with pytest.raises(ValueError, match=f"{message}valid: 2, 4"):
        resolve_plan("16-3x4-32", config)
    with pytest.raises(ValueError, match="num_attention_heads=3, but 2 heads of this teacher.*nearest valid: 2, 4"):
        resolve_plan("macs=0.5,num_attention_heads=3", config)
    with pytest.raises(ValueError, match='nearest valid plan: .*"num_attention_heads": 2'):
        resolve_plan("40-3x4-32", config)
    full, target = widths_of(config), resolve_plan("16-2x4-32", config)
    steps = [scheduled_plan(full, target, progress=p, kept=full, multiple=8) for p in (0.3, 0.6)]
    assert [step.layers[0].num_attention_heads for step in steps] == [4, 2]


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma3_text"])
def test_decoders_are_refused_by_name(name):
    config = tiny_architecture_config(ARCHITECTURES[name])
    decoder = f"{name.removesuffix('_text').capitalize()}ForCausalLM"
    with pytest.raises(ValueError, match=f"class {decoder} is not supported; .* it is a decoder: train it as "):
        to_student(getattr(transformers, decoder)(config))
