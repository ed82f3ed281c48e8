import copy
import gc
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from tiny_files import write_teacher
from tiny_models import make_blocks, make_teacher, randomized, tiny_tokenizer
from torch import nn
from torchrun import torchrun
from transformers import (
    AutoTokenizer,
    BertForMaskedLM,
    TrainerCallback,
    ViTMAEConfig,
    ViTMAEForPreTraining,
    ViTMAEModel,
)

from homodistil_hf.data.masking import MaskedLMCollator
from homodistil_hf.methods.self_distillation import run as rounds
from homodistil_hf.methods.self_distillation.masked_models import MaskedImageCollator
from homodistil_hf.methods.self_distillation.run import load_initial, self_distill
from homodistil_hf.methods.self_distillation.trainer import SelfDistillationArguments, SelfDistillTrainer

NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture
def initial(tmp_path):
    return str(write_teacher(tmp_path / "initial"))


@pytest.fixture
def image_initial(tmp_path):
    make_image_model().save_pretrained(tmp_path / "images")
    return str(tmp_path / "images")


@pytest.fixture
def arguments(tmp_path):
    def make(folder="run", **settings):
        shared = {"per_device_train_batch_size": 8, "max_steps": 6, "logging_steps": 1, "save_strategy": "no"}
        shared |= {"learning_rate": 1e-3, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
        return SelfDistillationArguments(output_dir=str(tmp_path / folder), **shared | settings)

    return make


def make_image_model():
    """8 × 8 pixels in 16 patches, 2 layers × 32 hidden, decoder 1 × 16."""
    sizes = {"image_size": 8, "patch_size": 2, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    decoder = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
    torch.manual_seed(1)
    config = ViTMAEConfig(
        **sizes, **decoder, intermediate_size=64, decoder_intermediate_size=32, norm_pix_loss=True, mask_ratio=0.75
    )
    return randomized(ViTMAEForPreTraining(config))


def make_images(num_images=32):
    generator = torch.Generator().manual_seed(0)
    return [{"pixel_values": torch.randn(3, 8, 8, generator=generator), "label": 0} for _ in range(num_images)]


TEXT, IMAGES = "text", "images"
KINDS = pytest.mark.parametrize("kind", [TEXT, IMAGES])


def data_of(kind):
    if kind == IMAGES:
        return {"train_dataset": make_images()}
    return {"train_dataset": make_blocks(), "processing_class": tiny_tokenizer()}


@pytest.fixture
def source(initial, image_initial):
    return {TEXT: initial, IMAGES: image_initial}


def weights(folder):
    return load_initial(str(folder)).state_dict()


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


def differs(one, other):
    return any(not torch.equal(one[name], other[name]) for name in one)


def batch_of(trainer, num_rows=4):
    return trainer.data_collator([trainer.train_dataset[row] for row in range(num_rows)])


# One round


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
@pytest.mark.parametrize("compared", ["first", "all"])
def test_a_teacher_equal_to_its_student_adds_0(kind, compared, arguments):
    model = make_teacher(**NO_DROPOUT) if kind == TEXT else make_image_model()
    args = arguments(compared_states=compared)
    trainer = SelfDistillTrainer(model, args, teacher_model=copy.deepcopy(model), **data_of(kind))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch_of(trainer))
    assert trainer.step_log.step_terms["loss_state"] == 0
    assert torch.equal(loss, trainer.step_log.step_terms["loss_masked"])


@pytest.mark.parametrize("compared", ["first", "all"])
def test_the_term_of_text_is_what_a_slow_loop_computes(compared, arguments):
    model, teacher = make_teacher(**NO_DROPOUT), randomized(make_teacher(**NO_DROPOUT), seed=7)
    blocks = zip(make_blocks(4), (16, 9, 12, 16), strict=True)
    rows = [{"input_ids": list(row["input_ids"])[:length]} for row, length in blocks]
    args = arguments(compared_states=compared, distillation_weight=0.25)
    data = {"train_dataset": make_blocks(), "processing_class": tiny_tokenizer()}
    trainer = SelfDistillTrainer(model, args, teacher_model=teacher, **data)
    inputs = trainer.data_collator(rows)
    loss = trainer.compute_loss(model.train(), dict(inputs))
    distances = []
    for row in rows:  # one by one, without padding and masks
        ids = torch.tensor([row["input_ids"]])
        own, other = (m.bert(input_ids=ids).last_hidden_state[0].double() for m in (model, teacher))
        per_token = [sum(value**2 for value in difference) for difference in (own - other).tolist()]
        distances.append(per_token[0] if compared == "first" else sum(per_token) / len(per_token))
    expected = sum(distances) / len(distances)
    names = ("input_ids", "labels", "attention_mask")
    stock = model(**{name: inputs[name] for name in names}).loss
    terms = trainer.step_log.step_terms
    torch.testing.assert_close(float(terms["loss_state"]), expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(terms["loss_masked"], stock.detach())
    torch.testing.assert_close(float(loss.detach()), float(stock.detach()) + 0.25 * expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("compared", ["first", "all"])
def test_the_term_of_images_sees_every_patch(compared, arguments):
    model, teacher = make_image_model(), randomized(make_image_model(), seed=7)
    args = arguments(compared_states=compared)
    trainer = SelfDistillTrainer(model, args, teacher_model=teacher, train_dataset=make_images())
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
    errors_BT = (states[0] - states[1]).square().sum(-1)
    expected = errors_BT[:, 0].mean() if compared == "first" else errors_BT.mean()
    torch.testing.assert_close(trainer.step_log.step_terms["loss_state"], expected.detach())
    stock = model(pixel_values=inputs["pixel_values"], noise=inputs["noise"])
    torch.testing.assert_close(trainer.step_log.step_terms["loss_masked"], stock.loss.detach())
    assert stock.mask.sum(1).tolist() == [12.0] * 4
    assert model.config.mask_ratio == 0.75


@KINDS
def test_no_gradient_reaches_the_teacher(kind, source, arguments):
    teacher = randomized(load_initial(source[kind]), seed=5)
    before = copy.deepcopy(teacher.state_dict())
    trainer = SelfDistillTrainer(load_initial(source[kind]), arguments(), teacher_model=teacher, **data_of(kind))
    trainer.train()
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert not teacher.training
    assert_equal(teacher.state_dict(), before)


@KINDS
def test_the_teacher_is_asked_once_a_batch(kind, source, arguments):
    teacher, calls = randomized(load_initial(source[kind]), seed=5), []
    teacher.base_model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    args = arguments(gradient_accumulation_steps=2, max_steps=2)
    SelfDistillTrainer(load_initial(source[kind]), args, teacher_model=teacher, **data_of(kind)).train()
    assert calls == [False] * 4


@KINDS
def test_one_batch_and_its_parts_give_one_step(kind, arguments):
    found = []
    for size, parts in ((8, 1), (2, 4)):
        model = make_teacher(**NO_DROPOUT) if kind == TEXT else make_image_model()
        args = arguments(
            f"run{parts}",
            per_device_train_batch_size=size,
            gradient_accumulation_steps=parts,
            max_steps=3,
            optim="sgd",
        )
        trainer = SelfDistillTrainer(
            model, args, teacher_model=randomized(copy.deepcopy(model), seed=7), **data_of(kind)
        )
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
    logging_steps=1, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True)
data = {"train_dataset": make_blocks(), "processing_class": tiny_tokenizer()}
trainer = SelfDistillTrainer(model, args, teacher_model=randomized(copy.deepcopy(model), seed=7), **data)
trainer.train()
if trainer.is_world_process_zero():
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    torch.save((trainer.model.state_dict(), losses), sys.argv[1] + ".pt")
leave_process_group()  # else a rank that ends first may take the other along
"""


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks_are_one(tmp_path):
    script, found = tmp_path / "ranks.py", []
    script.write_text(_RANKS)
    paths = os.pathsep.join([str(Path(__file__).parents[2] / "support"), str(Path(__file__).parents[3])])
    for ranks in (1, 2):
        words = script, tmp_path / f"run{ranks}", 8 // ranks
        done = torchrun(*words, num_ranks=ranks, env={"PYTHONPATH": paths})
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(torch.load(tmp_path / f"run{ranks}.pt", weights_only=True))
    for name, tensor in found[0][0].items():
        torch.testing.assert_close(tensor, found[1][0][name], rtol=1e-5, atol=1e-6)
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5)


@KINDS
def test_a_round_runs_under_bfloat16(kind, arguments):
    model = make_teacher(**NO_DROPOUT) if kind == TEXT else make_image_model()
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


# All rounds


@KINDS
def test_the_student_starts_from_the_initial_weights_beside_round_0(kind, source, arguments, tmp_path, monkeypatch):
    started = spy_on_starts(monkeypatch)
    self_distill(source[kind], arguments(num_rounds=2), **data_of(kind))
    first = load_initial(source[kind]).state_dict()
    models = [weights(tmp_path / "run" / f"round-{number}" / "model") for number in range(3)]
    assert [teacher is None for _, teacher in started] == [True, False, False]
    for model, _ in started:
        assert_equal(model, first)
    for number in (1, 2):
        teacher = started[number][1]
        assert_equal(teacher, models[number - 1])
        assert differs(models[number - 1], models[number])
    assert_equal(weights(tmp_path / "run" / "student"), models[2])


def spy_on_starts(monkeypatch):
    started = []

    class Spy(SelfDistillTrainer):
        def train(self, *args, **kwargs):
            teacher = None if self.teacher is None else copy.deepcopy(self.teacher.state_dict())
            started.append((copy.deepcopy(self.model.state_dict()), teacher))
            return super().train(*args, **kwargs)

    monkeypatch.setattr(rounds, "SelfDistillTrainer", Spy)
    return started


class Interrupted(Exception):
    pass


class StopAt(TrainerCallback):
    """Stops the session like a crash at the n-th step that it sees."""

    def __init__(self, num_steps):
        self.num_left = num_steps

    def on_step_end(self, args, state, control, **kwargs):
        self.num_left -= 1
        if self.num_left == 0:
            raise Interrupted


@KINDS
@pytest.mark.parametrize("num_steps", [5, 6, 16])  # in round 0, at its end, in round 2
def test_a_resumed_run_is_the_uninterrupted_one(kind, num_steps, source, arguments, tmp_path, monkeypatch):
    settings = {"num_rounds": 2, "save_strategy": "steps", "save_steps": 2, "logging_steps": 4}
    whole = self_distill(source[kind], arguments("whole", **settings), **data_of(kind))
    started = spy_on_starts(monkeypatch)
    parts = arguments("parts", **settings)
    with pytest.raises(Interrupted):
        self_distill(source[kind], parts, callbacks=[StopAt(num_steps)], **data_of(kind))
    parts.resume_from_checkpoint = "last"
    started.clear()
    resumed = self_distill(source[kind], parts, **data_of(kind))
    for number in range(3):
        folders = [tmp_path / name / f"round-{number}" / "model" for name in ("whole", "parts")]
        assert_equal(*map(weights, folders))
    for one, other in zip(whole["rounds"], resumed["rounds"], strict=True):
        for name in ("loss", "loss_masked", "train_loss"):
            assert one[name] == other[name], name
    assert len(started) == {5: 3, 6: 3, 16: 1}[num_steps]


def test_a_checkpoint_of_the_model_alone_is_not_resumed(initial, arguments):
    settings = {"save_only_model": True, "save_strategy": "steps", "save_steps": 2}
    args = arguments(**settings)
    with pytest.raises(Interrupted):
        self_distill(initial, args, callbacks=[StopAt(5)], **data_of(TEXT))
    args.resume_from_checkpoint = "last"
    with pytest.raises(ValueError, match=r"has no optimizer\.pt, as it was saved with save_only_model=True"):
        self_distill(initial, args, **data_of(TEXT))


def test_one_more_round_goes_on_from_a_finished_run(initial, arguments, tmp_path, monkeypatch):
    self_distill(initial, arguments(), **data_of(TEXT))
    started = spy_on_starts(monkeypatch)
    self_distill(initial, arguments(num_rounds=2, resume_from_checkpoint="last"), **data_of(TEXT))
    assert len(started) == 1
    self_distill(initial, arguments("whole", num_rounds=2), **data_of(TEXT))
    assert_equal(*(weights(tmp_path / name / "student") for name in ("run", "whole")))


class CountParameters(TrainerCallback):
    def __init__(self):
        self.most = 0

    def on_step_begin(self, args, state, control, **kwargs):
        gc.collect()
        alive = [one for one in gc.get_objects() if isinstance(one, nn.Parameter)]
        self.most = max(self.most, sum(one.numel() for one in alive))


@KINDS
def test_two_models_are_in_memory_and_no_third(kind, source, arguments):
    gc.collect()
    frozen = sum(one.numel() for one in gc.get_objects() if isinstance(one, nn.Parameter))
    counted = CountParameters()
    self_distill(source[kind], arguments(num_rounds=2, max_steps=2), callbacks=[counted], **data_of(kind))
    own = sum(p.numel() for p in load_initial(source[kind]).parameters())
    assert counted.most - frozen == 2 * own


def test_the_result_is_a_checkpoint_like_the_first(initial, arguments, tmp_path):
    result = self_distill(initial, arguments(), **data_of(TEXT))
    assert result["student"] == str(tmp_path / "run" / "student")
    model, info = BertForMaskedLM.from_pretrained(result["student"], output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert model.config.architectures == ["BertForMaskedLM"]
    assert AutoTokenizer.from_pretrained(result["student"]).get_vocab() == tiny_tokenizer().get_vocab()
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "`BertForMaskedLM`, made from `initial`" in card
    assert "lee2023selfdistillation" in card
    assert str(tmp_path) not in card
    assert json.loads((tmp_path / "run" / "self_distillation.json").read_text())["model"] == initial


def test_the_result_for_images_loads_with_stock_classes(image_initial, arguments):
    student = self_distill(image_initial, arguments(), **data_of(IMAGES))["student"]
    for model_class in (ViTMAEForPreTraining, ViTMAEModel):
        _, info = model_class.from_pretrained(student, output_loading_info=True)
        assert not info["missing_keys"]


def test_plain_rows_of_the_same_content_are_masked_alike_whatever_their_order():
    collator, rows = MaskedImageCollator(16, seed=3), make_images(4)
    one, other = collator(rows), collator(rows[::-1])
    assert torch.equal(one["noise"], other["noise"].flip(0))
    assert sorted(one["noise"][0].tolist()) == list(range(16))
    collator.set_epoch(1)
    assert not torch.equal(collator(rows)["noise"], one["noise"])
    assert not torch.equal(MaskedImageCollator(16, seed=4)(rows)["noise"], one["noise"])


# What is refused, before time is spent

SETTINGS = [
    ({"num_rounds": 0}, r"num_rounds=0 is not a whole number of at least 1"),
    ({"num_rounds": 1.5}, r"num_rounds=1\.5"),
    ({"distillation_weight": -1.0}, r"distillation_weight=-1\.0 is outside"),
    ({"distillation_weight": math.nan}, r"distillation_weight=nan is outside"),
    ({"mlm_probability": 1.0}, r"mlm_probability=1\.0 is outside"),
    ({"compared_states": "last"}, r"compared_states='last' is not one of first, all"),
    ({"push_to_hub": True}, r"push_to_hub=True is not supported .*`hf upload`"),
    ({"torch_compile": True}, r"torch_compile=True is not supported"),
    ({"label_smoothing_factor": 0.1}, r"label_smoothing_factor=0\.1"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_settings_that_can_not_work_are_refused(settings, message, arguments):
    with pytest.raises(ValueError, match=message):
        arguments(**settings)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": "gpt"}, r"model='.*gpt' has model_type='gpt2'; supported: bert"),
        ({"model": "headless"}, r"BertForSequenceClassification.*doesn't predict what is masked.*pre-training head"),
        ({"model": "encoder"}, r"ViTMAEModel.*doesn't predict what is masked"),
        ({"model": "decoderless"}, r"has no weights for .*decoder.* with its decoder"),
        ({"train_dataset": []}, r"train_dataset is empty"),
        ({"train_dataset": make_blocks(4)}, r"train_dataset has 4 rows, fewer than the 8 of a batch"),
        ({"train_dataset": [{"text": "a"}] * 9}, r"train_dataset has rows of text, but no input_ids"),
        ({"train_dataset": IterableDataset.from_generator(list)}, r"train_dataset is a stream"),
        ({"processing_class": None}, r"processing_class=None is no tokenizer"),
        ({"model": IMAGES, "train_dataset": []}, r"train_dataset is empty"),
        ({"model": IMAGES, "train_dataset": make_blocks()}, r"has rows of .*, but no pixel_values"),
        ({"model": IMAGES, "train_dataset": [{"pixel_values": np.zeros((3, 9, 9))}]}, r"shape \(3, 9, 9\).*resize"),
    ],
)
def test_models_and_data_that_can_not_work_are_refused(given, message, source, arguments, tmp_path, monkeypatch):
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}')
    write_teacher(tmp_path / "headless", task="sequence_classification")
    make_image_model().vit.save_pretrained(tmp_path / "encoder")
    make_image_model().vit.save_pretrained(tmp_path / "decoderless")
    path = tmp_path / "decoderless" / "config.json"
    path.write_text(path.read_text().replace("ViTMAEModel", "ViTMAEForPreTraining"))
    monkeypatch.setattr(SelfDistillTrainer, "train", None)
    data = data_of(IMAGES if given.get("model") == "decoderless" else TEXT) | given
    name = data.pop("model", TEXT)
    with pytest.raises(ValueError, match=message):
        self_distill(source.get(name, str(tmp_path / name)), arguments(), **data)


def test_teachers_of_another_shape_are_refused(initial, arguments):
    with pytest.raises(ValueError, match=r"teacher has hidden_size=16, model 32; .* choose another teacher"):
        SelfDistillTrainer(
            load_initial(initial),
            arguments(),
            teacher_model=make_teacher(hidden_size=16, num_attention_heads=2),
            **data_of(TEXT),
        )


def test_folders_with_other_files_are_refused(initial, image_initial, arguments, tmp_path):
    with pytest.raises(ValueError, match=r"finds no self_distillation\.json in .*; start without it"):
        self_distill(initial, arguments(resume_from_checkpoint="last"), **data_of(TEXT))
    with pytest.raises(ValueError, match=r"resume_from_checkpoint='x' is not supported .* use 'last'"):
        self_distill(initial, arguments(resume_from_checkpoint="x"), **data_of(TEXT))
    self_distill(initial, arguments(max_steps=1), **data_of(TEXT))
    with pytest.raises(ValueError, match=r"is not empty .* overwrite_output_dir"):
        self_distill(initial, arguments(), **data_of(TEXT))
    with pytest.raises(ValueError, match=r"is not what the run in output_dir=.* began with, .*; resume with that"):
        self_distill(image_initial, arguments(resume_from_checkpoint="last"), **data_of(IMAGES))
    again = self_distill(initial, arguments(max_steps=1, overwrite_output_dir=True), **data_of(TEXT))
    assert all(again["rounds"])


def test_the_best_model_is_loaded_at_the_end(image_initial, arguments):
    data = data_of(IMAGES) | {"eval_dataset": make_images(8)}
    saving = {"save_strategy": "steps", "eval_strategy": "steps", "save_steps": 2, "eval_steps": 2}
    args = arguments(load_best_model_at_end=True, save_total_limit=1, **saving)
    trainer = SelfDistillTrainer(load_initial(image_initial), args, **data)
    trainer.train()
    assert_equal(trainer.model.state_dict(), weights(trainer.state.best_model_checkpoint))
    assert trainer.evaluate()["eval_loss"] == trainer.state.best_metric


def test_weights_that_are_not_finite_are_not_saved(initial, arguments, tmp_path):
    with pytest.raises(FloatingPointError, match=r"is not finite at the end of step 3; lower learning_rate"):
        self_distill(initial, arguments(learning_rate=1e30, optim="sgd", max_steps=3), **data_of(TEXT))
    assert not (tmp_path / "run" / "round-0" / "model").exists()


def test_a_collator_of_the_users_own_needs_no_positions(initial, arguments):
    plain = MaskedLMCollator(tiny_tokenizer(), seed=42)

    def collate(rows):
        return {name: values for name, values in plain(rows).items() if name != "masked_positions"}

    found = []
    for folder, collator in (("own", collate), ("ours", None)):
        model = make_teacher(**NO_DROPOUT)
        args = arguments(folder, max_steps=2)
        trainer = SelfDistillTrainer(model, args, data_collator=collator, **data_of(TEXT))
        trainer.train()
        found.append(trainer.model.state_dict())
    assert_equal(*found)


def test_a_data_set_with_a_format_of_its_own_can_be_read(arguments):
    images = Dataset.from_dict({"pixel_values": [image["pixel_values"].tolist() for image in make_images(16)]})
    trainer = SelfDistillTrainer(make_image_model(), arguments(max_steps=2), train_dataset=images)
    trainer.train()
    assert trainer.state.global_step == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000; expected a whole number from 1 to 1024"),
        ({"decoder_num_hidden_layers": 10**9}, "decoder_num_hidden_layers=1000000000; expected a whole number"),
        ({"image_size": 1 << 12, "hidden_size": 1 << 14}, "its config.json describes"),
        ({"image_size": [8, -8]}, r"image_size=\[8, -8\]; expected a whole number"),
        ({"_attn_implementation": "kernels/evil"}, "expected eager or sdpa"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "brings its own modelling code"),
        ({"hidden_size": "32"}, "expected a whole number"),
    ],
)
def test_configurations_of_images_are_checked_before_weights_are_read(image_initial, values, message):
    path = Path(image_initial, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(ValueError, match=message):
        load_initial(image_initial)


def test_weights_of_images_that_do_not_fit_are_named(image_initial):
    path = Path(image_initial, "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"decoder_intermediate_size": 16}))
    with pytest.raises(ValueError, match=r"decoder.* the shape \(32,\), .* describes \(16,\) .*; mend config\.json"):
        load_initial(image_initial)
