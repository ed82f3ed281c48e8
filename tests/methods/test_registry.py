"""What every method shares: data, counts, checkpoints, exports; and what they are called."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from run_traces import SaveAt, logs_of
from students import make_batch
from tiny_files import own_cache, write_config
from tiny_models import GRADUAL, make_blocks, make_teacher
from transformers import BertForMaskedLM

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.experiments.config import parse_run
from homodistil_hf.experiments.distill import distill
from homodistil_hf.experiments.student import make_trainer as make_configured
from homodistil_hf.methods.registry import METHODS, RUNS, run_named
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.training.checks import own_settings

SAME_HEADS = {"hidden_size": 16, "num_attention_heads": 4, "head_dim": 4, "intermediate_size": 32}
HALF_THE_MACS = {"hidden_size": 32, "num_attention_heads": 4, "head_dim": 4, "intermediate_size": 32}
STUDENTS = sorted(METHODS.keys() - RUNS.keys())  # of masked words
TAKE_SCORES = ("homodistil", "one_shot", "shallow")  # from batches before the first step, that come again
FRESH = ("scratch", "tinybert", "minilm", "minilm_v2")
TEACHER = WidthPlan.uniform(384, 6, LayerWidths(12, 32, 1536))
HALF = WidthPlan.uniform(264, 6, LayerWidths(12, 22, 1112))
QUARTER = WidthPlan.uniform(192, 6, LayerWidths(12, 16, 704))
EIGHTH = WidthPlan.uniform(128, 6, LayerWidths(8, 16, 512))


@pytest.fixture
def trainer_of(make_trainer) -> Any:
    """A trainer of a method on the tiny teacher, with as many heads as it."""

    def make(method: str, **settings: Any) -> HomoDistilTrainer:
        student = HALF_THE_MACS if method == "distilbert" else SAME_HEADS
        return make_trainer(trainer_class=METHODS[method], **{"student": student, "max_steps": 6} | settings)

    return make


@pytest.mark.parametrize("method", STUDENTS)
def test_a_run_of_every_method_learns_from_the_whole_teacher(method, tmp_path, monkeypatch):
    own_cache(monkeypatch, tmp_path / "cache")
    student = HALF_THE_MACS if method == "distilbert" else SAME_HEADS
    config = write_config(tmp_path, method=method, student=student)
    trainer = make_configured(parse_run([str(config)]), lambda line: None)
    expected = BertForMaskedLM.from_pretrained(tmp_path / "teacher").state_dict()
    found = trainer.distillation.teacher.exact.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.slow
@pytest.mark.parametrize("method", STUDENTS)
def test_every_method_learns_and_exports_a_stock_model(trainer_of, method, tmp_path):
    trainer = trainer_of(method, train_dataset=make_blocks(8), max_steps=16, learning_rate=5e-3)
    trainer.train()
    losses = [entry["loss"] for entry in logs_of(trainer) if "loss" in entry]
    # These start close to their teacher and are pruned away from it: the loss has little or nothing to fall from.
    assert len(losses) == 16
    assert method in ("homodistil", "shallow") or losses[-1] < 0.99 * losses[0]
    metrics = trainer.evaluate()
    assert metrics["eval_kl"] > 0
    folder = trainer.export(tmp_path / "student")
    stock = BertForMaskedLM.from_pretrained(folder).eval()
    inputs = make_batch()["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(stock(inputs).logits, trainer.model.eval()(inputs).logits, rtol=0, atol=1e-5)
    facts = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
    assert facts["training"]["method"] == method
    assert own_settings(trainer.args).keys() <= facts["settings"].keys()
    assert not METHODS[method].arguments_class.no_part.keys() & facts["settings"].keys()
    assert facts["student"]["encoder_macs"] == encoder_macs(trainer.plan)


@pytest.mark.slow
def test_all_methods_see_the_same_batches(trainer_of, tmp_path):
    seen: dict[str, list[Any]] = {}
    for method in STUDENTS:
        student = {"student": "macs=0.25"} if method.startswith("shallow") else {}
        student |= GRADUAL if method == "homodistil" else {}
        settings = student | {"max_steps": 3, "student_dropout": 0.1}
        if "rotate_heads" in METHODS[method].arguments_class.__dataclass_fields__:
            settings["rotate_heads"] = False
        trainer = trainer_of(method, output_dir=str(tmp_path / method), **settings)
        batches = seen.setdefault(method, [])
        count = trainer.distillation.count
        trainer.distillation.count = lambda batch, batches=batches, count=count: batches.append(batch) or count(batch)
        trainer.train()
    expected = seen.pop("homodistil")
    assert len(expected) == 3
    for method, batches in seen.items():
        assert len(batches) == 3 or method in TAKE_SCORES
        for batch, other in zip(batches[-3:], expected, strict=True):
            assert torch.equal(batch["input_ids"], other["input_ids"])
            assert torch.equal(batch["labels"], other["labels"])


@pytest.mark.parametrize("method", ["tinybert", "minilm", "minilm_v2"])
def test_weights_of_nothing_are_refused(make_trainer, method):
    fields = METHODS[method].arguments_class.__dataclass_fields__
    weights = {name: 0.0 for name in fields if name.endswith("_weight")}
    with pytest.raises(ValueError, match=r"mlm_weight.* are all 0, so nothing would be learnt; leave one of them at"):
        make_trainer(trainer_class=METHODS[method], **weights, student=SAME_HEADS)


@pytest.mark.parametrize("method", ["distilbert", "shallow"])
def test_milliseconds_say_nothing_of_fewer_layers(trainer_of, method):
    with pytest.raises(ValueError, match="student='latency_ms=5' is measured with all .*; ask for a share of the enc"):
        trainer_of(method, student="latency_ms=5")


def test_a_checkpoint_of_another_method_is_refused(trainer_of, tmp_path):
    trainer_of("minilm", callbacks=[SaveAt(2)], max_steps=2).train()
    other = trainer_of("minilm_v2", output_dir=str(tmp_path / "other"))
    with pytest.raises(ValueError, match="is of method='minilm', this run of method='minilm_v2'; resume with that"):
        other.train(str(tmp_path / "run" / "checkpoint-2"))


@pytest.mark.parametrize("method", [*FRESH, "distilbert"])
def test_micro_batches_share_the_average_over_the_global_batch(trainer_of, method):
    """One batch of four rows, one of them padded, equals four micro-batches of one."""
    trainer = trainer_of(method)
    distillation, model = trainer.distillation, trainer.model.eval()
    batch = make_batch(num_rows=4)
    rows = [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(4)]
    counts = distillation.count(batch)
    assert torch.equal(counts, sum(distillation.count(row) for row in rows))
    with torch.no_grad():
        whole, _ = distillation.terms(model, batch, counts)
        parts = [distillation.terms(model, row, counts)[0] for row in rows]
    assert set(whole) <= set(distillation.weights)
    for name, term in whole.items():
        assert term.dtype is torch.float32
        assert float(term) == pytest.approx(sum(float(part[name]) for part in parts), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("method", FRESH)
def test_fresh_students_know_nothing_of_the_teacher(trainer_of, method, tmp_path):
    def start(teacher: Any, name: str) -> HomoDistilTrainer:
        trainer = trainer_of(method, model=teacher, output_dir=str(tmp_path / name))
        trainer.start_student()
        return trainer

    trained = make_teacher()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(3.0)
    one, other = start(make_teacher(), "one"), start(trained, "other")
    weights = dict(other.model.named_parameters())
    assert [name for name, p in one.model.named_parameters() if not torch.equal(p, weights[name])] == []
    assert one.kept == one.plan
    config = one.model.config
    for name, parameter in one.model.bert.encoder.named_parameters():
        if parameter.ndim == 2:
            assert float(parameter.detach().std()) == pytest.approx(config.initializer_range, rel=0.2), name
    assert one.model.bert.encoder.layer[0].attention.self.scaling == 0.5  # 1/√4, the student's own head size
    assert one.model.cls.predictions.decoder.weight is one.model.bert.embeddings.word_embeddings.weight


def test_the_seed_decides_how_a_fresh_student_starts(trainer_of, tmp_path):
    starts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        trainer = trainer_of("scratch", seed=seed, output_dir=str(tmp_path / name))
        trainer.start_student()
        starts.append(trainer.model.bert.embeddings.word_embeddings.weight)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_a_fresh_student_of_full_width_is_fresh_too(trainer_of):
    trainer = trainer_of("scratch", student="macs=1.0")
    before = trainer.model.bert.embeddings.word_embeddings.weight.clone()
    trainer.start_student()
    assert trainer.kept == trainer.full
    after = trainer.model.bert.embeddings.word_embeddings.weight
    assert float((after - before).detach().abs().mean()) > 0.01


def test_training_goes_on_where_it_ended(trainer_of):
    """A second call of `train` draws no new weights."""
    trainer = trainer_of("scratch", max_steps=1, learning_rate=0.0, weight_decay=0.0)
    trainer.train()
    with torch.no_grad():
        trainer.model.bert.embeddings.word_embeddings.weight.fill_(0.5)
    trainer.train()
    assert bool((trainer.model.bert.embeddings.word_embeddings.weight == 0.5).all())


def test_methods_without_a_meaning_for_other_heads_say_so(make_trainer):
    teacher = make_teacher("sequence_classification")
    message = "method='scratch' trains masked-LM students, model is a HomoBertForSequenceClassification; pass a masked"
    with pytest.raises(ValueError, match=message):
        make_trainer(model=teacher, trainer_class=METHODS["scratch"])


# Names and cells


@pytest.mark.parametrize(
    ("plan", "missing"),
    [(HALF, set()), (QUARTER, {"distilbert"}), (EIGHTH, {"distilbert", "minilm", "tinybert"})],
)
def test_cells_that_can_not_exist_are_named(plan, missing):
    assert {name for name in STUDENTS if METHODS[name].impossible_reason(plan, TEACHER) is not None} == missing


def test_reasons_say_what_to_do():
    reason = METHODS["distilbert"].impossible_reason(QUARTER, TEACHER)
    assert reason.startswith("no number of the teacher's 6 layers has the encoder MACs of the plan {")
    assert reason.endswith("within 3 %; ask for a share of the MACs that whole layers have, such as macs=0.5")
    reason = METHODS["tinybert"].impossible_reason(EIGHTH, TEACHER)
    assert reason.startswith("the student's heads [8, 8, 8, 8, 8, 8] are not as many as the teacher's [12, ")


@pytest.mark.parametrize(
    ("method", "message"), [("minilm", r"heads \[2\] are not as"), ("tinybert", r"heads \[2, 2\]")]
)
def test_a_cell_that_can_not_exist_is_refused(make_trainer, method, message):
    with pytest.raises(ValueError, match=f"method='{method}' is impossible for this .*: the student's {message}"):
        make_trainer(trainer_class=METHODS[method])


def test_unknown_methods_and_settings_name_the_nearest():
    with pytest.raises(ValueError, match="method='minilm2' is unknown; nearest valid: 'minilm', of homodis"):
        run_named("minilm2")


@pytest.mark.parametrize("method", METHODS)
def test_every_class_carries_its_name(method):
    assert METHODS[method].method == method


@pytest.mark.slow
def test_a_config_chooses_the_method(tmp_path, monkeypatch):
    own_cache(monkeypatch, tmp_path / "cache")
    config = write_config(tmp_path, method="minilm_v2", num_relation_heads=2, student=SAME_HEADS, max_steps=2)
    results = distill(parse_run([str(config)]), lambda line: None)
    facts = json.loads((Path(tmp_path) / "run" / "student" / "facts.json").read_text(encoding="utf-8"))
    assert (facts["training"]["method"], facts["settings"]["num_relation_heads"]) == ("minilm_v2", 2)
    assert results["settings"]["method"] == "minilm_v2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "minilm"}, "method='minilm' is impossible for this student: the student's heads"),
        ({"method": "distilber"}, "method='distilber' is unknown; nearest valid: 'distilbert'"),
        ({"temperature": 1}, r"has the unknown key 'temperature' \(value 1\); nearest valid: '.*'"),
        (
            {"method": "distilbert", "temperatur": 2},
            r"has the unknown key 'temperatur' \(value 2\); nearest valid: 'temperature'",
        ),
    ],
)
def test_a_config_is_refused_before_any_text_is_read(tmp_path, settings, message, monkeypatch):
    monkeypatch.setattr(
        "homodistil_hf.methods.masked_words.load_text", lambda *args, **kwargs: pytest.fail("text was read")
    )
    with pytest.raises(ValueError, match=message):
        distill(parse_run([str(write_config(tmp_path, **settings))]), lambda line: None)
