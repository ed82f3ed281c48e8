import copy
import math
import runpy
import sys
from pathlib import Path

import pytest
import torch
from pretraining_cases import KINDS, TEXT, assert_equal, data_of, differs, make_image_model, make_images
from rows import each
from students import WITHOUT_DROPOUT
from tiny_files import change_json
from tiny_models import make_blocks, make_teacher, randomized, tiny_tokenizer

from homodistil_hf.data.masking import MaskedLMCollator
from homodistil_hf.methods.self_distillation.rounds import load_initial
from homodistil_hf.methods.self_distillation.trainer import MaskedImageCollator, SelfDistillTrainer


def batch_of(trainer, num_rows=4):
    return trainer.data_collator([trainer.train_dataset[row] for row in range(num_rows)])


# One round


@pytest.mark.slow
@KINDS
def test_with_weight_0_a_round_is_plain_further_pre_training(kind, source, arguments):
    name, found = source[kind], []
    for folder, teacher, weight in (("plain", None, 1.0), ("weightless", load_initial(name), 0.0)):
        args = arguments(folder, distillation_weight=weight)
        trainer = SelfDistillTrainer(load_initial(name), args, teacher_model=teacher, **data_of(kind))
        trainer.train()
        found.append(trainer.model.state_dict())
    assert_equal(*found)
    assert differs(found[0], load_initial(name).state_dict())


@KINDS
def test_a_teacher_equal_to_its_student_adds_0(kind, arguments):
    model = make_teacher(**WITHOUT_DROPOUT) if kind == TEXT else make_image_model()
    trainer = SelfDistillTrainer(model, arguments(), teacher_model=copy.deepcopy(model), **data_of(kind))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch_of(trainer))
    assert trainer.step_log.step_terms["loss_state"] == 0
    assert torch.equal(loss, trainer.step_log.step_terms["loss_masked"])


def test_the_term_of_text_is_what_a_slow_loop_computes(arguments):
    model, teacher = make_teacher(**WITHOUT_DROPOUT), randomized(make_teacher(**WITHOUT_DROPOUT), seed=7)
    blocks = zip(make_blocks(4), (16, 9, 12, 16), strict=True)
    rows = [{"input_ids": list(row["input_ids"])[:length]} for row, length in blocks]
    args = arguments(distillation_weight=0.25)
    data = {"train_dataset": make_blocks(), "processing_class": tiny_tokenizer()}
    trainer = SelfDistillTrainer(model, args, teacher_model=teacher, **data)
    inputs = trainer.data_collator(rows)
    loss = trainer.compute_loss(model.train(), dict(inputs))
    distances = []
    for row in rows:  # one by one, without padding and masks
        ids = torch.tensor([row["input_ids"]])
        own, other = (m.bert(input_ids=ids).last_hidden_state[0].double() for m in (model, teacher))
        distances.append(sum(value**2 for value in (own - other)[0].tolist()))
    expected = sum(distances) / len(distances)
    names = ("input_ids", "labels", "attention_mask")
    stock = model(**{name: inputs[name] for name in names}).loss
    terms = trainer.step_log.step_terms
    torch.testing.assert_close(float(terms["loss_state"]), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(terms["loss_masked"], stock.detach())
    torch.testing.assert_close(float(loss.detach()), float(stock.detach()) + 0.25 * expected, rtol=1e-5, atol=0)


def test_the_term_of_images_sees_every_patch(arguments):
    model, teacher = make_image_model(), randomized(make_image_model(), seed=7)
    trainer = SelfDistillTrainer(model, arguments(), teacher_model=teacher, train_dataset=make_images())
    inputs = batch_of(trainer)
    trainer.compute_loss(model.train(), dict(inputs))
    states = []
    for one in (model, teacher):
        vit = one.vit
        position_1TH = vit.embeddings.position_embeddings
        patches_BPH = vit.embeddings.patch_embeddings(inputs["pixel_values"]) + position_1TH[:, 1:]
        first_B1H = (vit.embeddings.cls_token + position_1TH[:, :1]).expand(4, -1, -1)
        state_BTH = torch.cat([first_B1H, patches_BPH], dim=1)
        for layer in vit.encoder.layer if hasattr(vit, "encoder") else vit.layers:
            state_BTH = layer(state_BTH)
        states.append(vit.layernorm(state_BTH))
    expected = (states[0] - states[1])[:, 0].square().sum(-1).mean()
    torch.testing.assert_close(trainer.step_log.step_terms["loss_state"], expected.detach())
    stock = model(pixel_values=inputs["pixel_values"], noise=inputs["noise"])
    torch.testing.assert_close(trainer.step_log.step_terms["loss_masked"], stock.loss.detach())
    assert stock.mask.sum(1).tolist() == [12.0] * 4
    assert model.config.mask_ratio == 0.75


@pytest.mark.slow
@KINDS
def test_the_teacher_is_asked_once_a_batch_and_gets_no_gradient(kind, source, arguments):
    teacher, calls = randomized(load_initial(source[kind]), seed=5), []
    before = copy.deepcopy(teacher.state_dict())
    teacher.base_model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    args = arguments(gradient_accumulation_steps=2, max_steps=2)
    SelfDistillTrainer(load_initial(source[kind]), args, teacher_model=teacher, **data_of(kind)).train()
    assert calls == [False] * 4
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not teacher.training
    assert_equal(teacher.state_dict(), before)


@pytest.mark.slow
@KINDS
def test_one_batch_and_its_parts_give_one_step(kind, arguments):
    found = []
    for size, parts in ((8, 1), (2, 4)):
        model = make_teacher(**WITHOUT_DROPOUT) if kind == TEXT else make_image_model()
        batches = {"per_device_train_batch_size": size, "gradient_accumulation_steps": parts}
        args = arguments(f"run{parts}", max_steps=3, optim="sgd", **batches)
        teacher = randomized(copy.deepcopy(model), seed=7)
        trainer = SelfDistillTrainer(model, args, teacher_model=teacher, **data_of(kind))
        trainer.train()
        found.append((trainer.model.state_dict(), trainer.state.log_history))
    for name, tensor in found[0][0].items():
        torch.testing.assert_close(tensor, found[1][0][name], rtol=1e-4, atol=1e-6)
    for one, other in zip(*(history for _, history in found), strict=True):
        for name in {"loss", "loss_masked", "loss_state"} & one.keys():
            assert one[name] == pytest.approx(other[name], rel=1e-4)


_RANKS = """
import copy, sys, torch
from tiny_models import make_blocks, make_teacher, randomized, tiny_tokenizer
from homodistil_hf.methods.self_distillation.trainer import SelfDistillationArguments, SelfDistillTrainer
from homodistil_hf.training.ranks import leave_process_group
model = make_teacher(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
args = SelfDistillationArguments(
    output_dir=sys.argv[1], per_device_train_batch_size=int(sys.argv[2]), max_steps=3, learning_rate=1e-2, optim="sgd",
    logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True,
    per_device_eval_batch_size=2)
data = {"train_dataset": make_blocks(), "processing_class": tiny_tokenizer()}
data["eval_dataset"] = make_blocks().select(range(5))  # the last one is of one rank alone
trainer = SelfDistillTrainer(model, args, teacher_model=randomized(copy.deepcopy(model), seed=7), **data)
trainer.train()
measured = trainer.evaluate()["eval_loss"]
if trainer.is_world_process_zero():
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] + [measured]
    torch.save((trainer.model.state_dict(), losses), sys.argv[1] + ".pt")
leave_process_group()  # else a rank that ends first may take the other along
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_are_one(as_ranks, tmp_path, monkeypatch):
    script = tmp_path / "ranks.py"
    script.write_text(_RANKS)
    monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path / "run1"), "8"])
    runpy.run_path(str(script), run_name="__main__")
    done = as_ranks(script, tmp_path / "run2", 4)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [torch.load(tmp_path / f"run{ranks}.pt", weights_only=True) for ranks in (1, 2)]
    for name, tensor in found[0][0].items():
        torch.testing.assert_close(tensor, found[1][0][name], rtol=1e-5, atol=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)


@KINDS
def test_a_round_runs_under_bfloat16(kind, arguments):
    model = make_teacher(**WITHOUT_DROPOUT) if kind == TEXT else make_image_model()
    args = arguments(bf16=True, max_steps=3)
    trainer = SelfDistillTrainer(model, args, teacher_model=copy.deepcopy(model), **data_of(kind))
    trainer.train()
    first, last = trainer.state.log_history[0], trainer.state.log_history[-2]
    assert first["loss_state"] == 0
    assert last["loss_state"] > 0
    assert math.isfinite(last["loss"])
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


@KINDS
def test_an_evaluation_measures_the_masked_loss_alone_and_always_alike(kind, source, arguments):
    teacher = randomized(load_initial(source[kind]), seed=5)
    model = load_initial(source[kind])
    data = data_of(kind)
    data["eval_dataset"] = [data["train_dataset"][row] for row in range(11)]  # drops nothing
    trainer = SelfDistillTrainer(model, arguments(per_device_eval_batch_size=11), teacher_model=teacher, **data)
    before = trainer.evaluate()["eval_loss"]
    trainer.data_collator.set_epoch(3)
    assert trainer.evaluate()["eval_loss"] == before
    trainer.data_collator.set_epoch(0)
    inputs = batch_of(trainer, 11)
    if kind == TEXT:
        inputs.pop("masked_positions")
    assert before == pytest.approx(float(model.eval()(**inputs).loss.detach()), rel=1e-5)


def test_plain_rows_of_the_same_content_are_masked_alike_whatever_their_order():
    collator, rows = MaskedImageCollator(16, seed=3), make_images(4)
    one, other = collator(rows), collator(rows[::-1])
    assert torch.equal(one["noise"], other["noise"].flip(0))
    assert sorted(one["noise"][0].tolist()) == list(range(16))
    collator.set_epoch(1)
    assert not torch.equal(collator(rows)["noise"], one["noise"])
    assert not torch.equal(MaskedImageCollator(16, seed=4)(rows)["noise"], one["noise"])


# What is refused, before time is spent


@each(
    ("settings", "message"),
    [
        ({"num_rounds": 0}, r"num_rounds=0 is not a whole number of at least 1"),
        ({"distillation_weight": -1.0}, r"distillation_weight=-1\.0 is outside"),
        ({"mlm_probability": 1.0}, r"mlm_probability=1\.0 is outside"),
        ({"adam_beta2": 1}, r"^adam_beta2=1 is outside"),
        ({"push_to_hub": True}, r"push_to_hub=True is not supported .*`hf upload`"),
        ({"torch_compile": True}, r"torch_compile=True is not supported"),
        ({"label_smoothing_factor": 0.1}, r"label_smoothing_factor=0\.1"),
    ],
)
def test_settings_that_can_not_work_are_refused(settings, message, arguments):
    with pytest.raises(ValueError, match=message):
        arguments(**settings)


def test_teachers_of_another_shape_are_refused(initial, arguments):
    teacher = make_teacher(hidden_size=16, num_attention_heads=2)
    with pytest.raises(ValueError, match=r"teacher has hidden_size=16, the student 32; .* choose another teacher"):
        SelfDistillTrainer(load_initial(initial), arguments(), teacher_model=teacher, **data_of(TEXT))


def test_a_collator_of_the_users_own_needs_no_positions(initial, arguments):
    plain = MaskedLMCollator(tiny_tokenizer(), seed=42)

    def collate(rows):
        return {name: values for name, values in plain(rows).items() if name != "masked_positions"}

    found = []
    for folder, collator in (("own", collate), ("ours", None)):
        model = make_teacher(**WITHOUT_DROPOUT)
        args = arguments(folder, max_steps=2)
        trainer = SelfDistillTrainer(model, args, data_collator=collator, **data_of(TEXT))
        trainer.train()
        found.append(trainer.model.state_dict())
    assert_equal(*found)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decoder_num_hidden_layers": 10**9}, "decoder_num_hidden_layers=1000000000; expected a whole number"),
        ({"image_size": 1 << 12, "hidden_size": 1 << 14}, "its config.json describes"),
        ({"image_size": [8, -8]}, r"image_size=\[8, -8\]; expected a whole number"),
        ({"_attn_implementation": "kernels/evil"}, "expected eager or sdpa"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "brings its own modelling code"),
    ],
)
def test_configurations_of_images_are_checked_before_weights_are_read(image_initial, values, message):
    change_json(Path(image_initial, "config.json"), **values)
    with pytest.raises(ValueError, match=message):
        load_initial(image_initial)


def test_the_loss_of_an_evaluation_is_the_mean_of_all_predictions(source, arguments):
    data = data_of(TEXT)
    rows = [data["train_dataset"][row] for row in range(12)]
    special = {name: value[:1] + value[-1:] for name, value in rows[0].items() if isinstance(value, list)}
    found = set()
    for size, some in ((12, rows), (5, rows), (1, rows), (12, [*rows, rows[0] | special])):
        data["eval_dataset"] = some
        args = arguments(per_device_eval_batch_size=size)
        loss = SelfDistillTrainer(load_initial(source[TEXT]), args, **data).evaluate()["eval_loss"]
        found.add(round(loss, 5))
    assert len(found) == 1


@each("name", ["compute_loss_func", "compute_metrics", "preprocess_logits_for_metrics"])
def test_what_would_have_no_effect_is_refused(name, arguments):
    with pytest.raises(
        ValueError, match=f"^{name}=<built-in function len> (has no part in|would replace) SelfDistill"
    ):
        SelfDistillTrainer(make_teacher(), arguments(), **data_of(TEXT), **{name: len})
