"""Rounds of self-distillation: each starts from the first weights, resumes exactly, and refuses what cannot work."""

import copy
import gc
import json

import pytest
from datasets import IterableDataset
from pretraining_cases import IMAGES, KINDS, TEXT, assert_equal, data_of, differs, make_image_model
from tiny_files import write_teacher
from tiny_models import make_blocks, tiny_tokenizer
from torch import nn
from transformers import AutoTokenizer, BertForMaskedLM, TrainerCallback, ViTMAEForPreTraining, ViTMAEModel

from homodistil_hf.methods.self_distillation import rounds
from homodistil_hf.methods.self_distillation.rounds import load_initial, self_distill
from homodistil_hf.methods.self_distillation.trainer import SelfDistillTrainer

pytestmark = pytest.mark.slow


def weights(folder):
    return load_initial(str(folder)).state_dict()


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


def test_without_a_teachers_term_there_is_one_round(source, arguments, tmp_path):
    found = self_distill(source[TEXT], arguments(distillation_weight=0.0), **data_of(TEXT))
    assert [len(found["rounds"]), (tmp_path / "run" / "round-1").exists()] == [1, False]
    assert_equal(weights(tmp_path / "run" / "student"), weights(tmp_path / "run" / "round-0" / "model"))
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "further pre-trained" in card
    assert "self-distillation" not in card.lower().replace("self_distillation", "")


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
def test_a_resumed_run_is_the_uninterrupted_one(kind, source, arguments, tmp_path, monkeypatch):
    settings = {"num_rounds": 2, "save_strategy": "steps", "save_steps": 2, "logging_steps": 4}
    whole = self_distill(source[kind], arguments("whole", **settings), **data_of(kind))
    started = spy_on_starts(monkeypatch)
    for num_steps, num_started in ((5, 3), (6, 3), (16, 1)):  # in round 0, at its end, in round 2
        parts = arguments(f"parts-{num_steps}", **settings)
        with pytest.raises(Interrupted):
            self_distill(source[kind], parts, callbacks=[StopAt(num_steps)], **data_of(kind))
        parts.resume_from_checkpoint = "last"
        started.clear()
        resumed = self_distill(source[kind], parts, **data_of(kind))
        for number in range(3):
            folders = [tmp_path / name / f"round-{number}" / "model" for name in ("whole", f"parts-{num_steps}")]
            assert_equal(*map(weights, folders))
        for one, other in zip(whole["rounds"], resumed["rounds"], strict=True):
            for name in ("loss", "loss_masked", "train_loss"):
                assert one[name] == other[name], name
        assert len(started) == num_started


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
    assert "arXiv 2210.02871" in " ".join(card.split())
    assert str(tmp_path) not in card
    assert json.loads((tmp_path / "run" / "self_distillation.json").read_text())["model"] == initial


def test_the_result_for_images_loads_with_stock_classes(image_initial, arguments):
    student = self_distill(image_initial, arguments(), **data_of(IMAGES))["student"]
    for model_class in (ViTMAEForPreTraining, ViTMAEModel):
        _, info = model_class.from_pretrained(student, output_loading_info=True)
        assert not info["missing_keys"]


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
    ],
)
def test_models_and_data_that_can_not_work_are_refused(given, message, source, arguments, tmp_path, never_trains):
    (tmp_path / "gpt").mkdir()
    (tmp_path / "gpt" / "config.json").write_text('{"model_type": "gpt2"}')
    write_teacher(tmp_path / "headless", task="sequence_classification")
    make_image_model().vit.save_pretrained(tmp_path / "encoder")
    make_image_model().vit.save_pretrained(tmp_path / "decoderless")
    path = tmp_path / "decoderless" / "config.json"
    path.write_text(path.read_text().replace("ViTMAEModel", "ViTMAEForPreTraining"))
    data = data_of(IMAGES if given.get("model") == "decoderless" else TEXT) | given
    name = data.pop("model", TEXT)
    with pytest.raises(ValueError, match=message):
        self_distill(source.get(name, str(tmp_path / name)), arguments(), **data)


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
    with pytest.raises(ValueError, match=r"^model='.*student' is in output_dir=.*, where it would be overwritten"):
        self_distill(tmp_path / "run" / "student", arguments(overwrite_output_dir=True), **data_of(TEXT))
    assert (tmp_path / "run" / "student").is_dir()
    again = self_distill(initial, arguments(max_steps=1, overwrite_output_dir=True), **data_of(TEXT))
    assert all(again["rounds"])


def test_weights_that_are_not_finite_are_not_saved(initial, arguments, tmp_path):
    with pytest.raises(FloatingPointError, match=r"is not finite at the end of step 3; lower learning_rate"):
        self_distill(initial, arguments(learning_rate=1e30, optim="sgd", max_steps=3), **data_of(TEXT))
    assert not (tmp_path / "run" / "round-0" / "model").exists()


def test_finished_rounds_go_on_with_the_settings_and_rows_that_they_had(initial, arguments):
    self_distill(initial, arguments(num_rounds=1), **data_of(TEXT))
    again = {"num_rounds": 1, "resume_from_checkpoint": "last"}
    with pytest.raises(
        ValueError, match=r"learning_rate=0.5 is not what the run in .* began with, .*; resume with that"
    ):
        self_distill(initial, arguments(**again, learning_rate=0.5), **data_of(TEXT))
    with pytest.raises(ValueError, match="rows_per_step=1 is not what the run"):
        self_distill(initial, arguments(**again, per_device_train_batch_size=1), **data_of(TEXT))
    others = data_of(TEXT) | {"train_dataset": data_of(TEXT)["train_dataset"].select(range(1, 20))}
    with pytest.raises(ValueError, match="rows='19 rows, digest .* is not what the run"):
        self_distill(initial, arguments(**again), **others)
    assert len(self_distill(initial, arguments(**again | {"num_rounds": 2}), **data_of(TEXT))["rounds"]) == 3
