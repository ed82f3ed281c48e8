"""Students of the baselines: fresh or of whole layers, of micro-batches, impossible ones, and what configs refuse."""

from typing import Any

import pytest
import torch
from method_students import SAME_HEADS
from rows import each
from run_traces import SaveAt
from students import make_batch
from tiny_files import write_config
from tiny_models import make_blocks, make_teacher
from tiny_trainers import QUARTER as OTHER_HEADS

from homodistil_hf import HomoDistilTrainer
from homodistil_hf.models.widths import LayerWidths, WidthPlan
from homodistil_hf.runs.config import parse_run
from homodistil_hf.runs.distill import distill
from homodistil_hf.runs.kinds import KINDS, METHODS, trainer_named

pytestmark = pytest.mark.slow

STUDENTS = sorted(METHODS.keys() - KINDS.keys())  # of masked words
FRESH = ("scratch", "tinybert", "minilm", "minilm_v2")
TEACHER = WidthPlan.uniform(384, 6, LayerWidths(12, 32, 1536))
HALF = WidthPlan.uniform(264, 6, LayerWidths(12, 22, 1112))
QUARTER = WidthPlan.uniform(192, 6, LayerWidths(12, 16, 704))
EIGHTH = WidthPlan.uniform(128, 6, LayerWidths(8, 16, 512))


def test_a_checkpoint_of_another_method_is_refused(trainer_of, tmp_path):
    trainer_of("minilm", callbacks=[SaveAt(2)], max_steps=2).train()
    other = trainer_of("minilm_v2", output_dir=str(tmp_path / "other"))
    with pytest.raises(ValueError, match="is of method='minilm', this run of method='minilm_v2'; resume with that"):
        other.train(str(tmp_path / "run" / "checkpoint-2"))


@each("method", [*FRESH, "distilbert"])
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


@each("method", FRESH)
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


def test_frozen_parameters_would_stay_random(trainer_of):
    untied = make_teacher(tie_word_embeddings=False)  # whose second bias is never used, nor trained
    trainer_of("scratch", model=untied)
    untied.bert.embeddings.LayerNorm.requires_grad_(False)
    with pytest.raises(ValueError, match="^model has 2 frozen parameters, such as bert.embeddings.LayerNorm.wei"):
        trainer_of("scratch", model=untied)


def test_the_seed_decides_how_a_fresh_student_starts(trainer_of, tmp_path):
    starts = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        trainer = trainer_of("scratch", seed=seed, output_dir=str(tmp_path / name))
        trainer.start_student()
        starts.append(trainer.model.bert.embeddings.word_embeddings.weight)
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])


def test_training_goes_on_where_it_ended(trainer_of):
    """A second call of `train` draws no new weights."""
    trainer = trainer_of("scratch", max_steps=1, learning_rate=0.0, weight_decay=0.0)
    trainer.train()
    with torch.no_grad():
        trainer.model.bert.embeddings.word_embeddings.weight.fill_(0.5)
    trainer.train()
    assert bool((trainer.model.bert.embeddings.word_embeddings.weight == 0.5).all())


# Names and cells


@each(("plan", "missing"), [(HALF, set()), (QUARTER, {"distilbert"}), (EIGHTH, {"distilbert", "minilm", "tinybert"})])
def test_cells_that_can_not_exist_are_named(plan, missing):
    assert {name for name in STUDENTS if trainer_named(name).impossible_reason(plan, TEACHER) is not None} == missing


def test_reasons_say_what_to_do():
    reason = trainer_named("distilbert").impossible_reason(QUARTER, TEACHER)
    assert reason.startswith("no number of the teacher's 6 layers has the encoder MACs of the plan {")
    half = WidthPlan.uniform(384, 3, TEACHER.layers[0])
    assert reason.endswith(f"within 3 %; name whole layers, such as {half.to_json(of_layers=6)}")
    distilbert = trainer_named("distilbert")
    assert distilbert.impossible_reason(half, TEACHER) is None
    reason = distilbert.impossible_reason(WidthPlan.uniform(336, 4, LayerWidths(12, 28, 1304)), TEACHER)
    assert reason.startswith(
        "the plan has 4 layers, but its encoder MACs are those of 3 whole ones, which this method"
    )
    reason = trainer_named("tinybert").impossible_reason(EIGHTH, TEACHER)
    assert reason.startswith("the student's heads [8, 8, 8, 8, 8, 8] are not as many as the teacher's [12, ")


ROWS = make_blocks(16).map(lambda row: {"labels": 0})
CLASSIFIER = {"model": make_teacher("sequence_classification"), "train_dataset": ROWS, "eval_dataset": ROWS}
REENTRANT = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}
NOTHING = r"mlm_weight.* are all 0, so nothing would be learnt; leave one of them at"
NO_GRADIENT = "keeps no gradient of queries and keys, which this method compares; set use"


def no_weights(method: str) -> dict[str, float]:
    fields = trainer_named(method).arguments_class.__dataclass_fields__
    return {name: 0.0 for name in fields if name.endswith("_weight")}


@each(
    ("method", "settings", "message"),
    [
        ("distilbert", {"student": SAME_HEADS}, "'distilbert' is impossible for this student: no number of the tea"),
        ("distilbert", {"temperature": 0.0}, "temperature=0.0 is outside .0, inf.; the default is 2.0"),
        ("distilbert", {"cosine_weight": -1.0}, "cosine_weight=-1.0 is outside .0, inf.; the default is 1.0"),
        ("distilbert", no_weights("distilbert"), "cosine_weight are all 0, so"),
        *((method, no_weights(method), NOTHING) for method in ("tinybert", "minilm", "minilm_v2")),
        (
            "distilbert",
            {"student": "latency_ms=5"},
            "student='latency_ms=5' is measured with all .*; ask for a share of",
        ),
        ("minilm_v2", {"num_relation_heads": 3}, "num_relation_heads=3 does not divide .*, 16 and 32; nearest valid:"),
        ("minilm_v2", {"teacher_layer": 2}, "teacher_layer=2 is no index into the teacher's 2 layers; -1 is the last"),
        ("minilm_v2", {"relation_weight": -0.5}, "relation_weight=-0.5 is outside .0, inf.; the default is 1.0"),
        ("minilm", REENTRANT, NO_GRADIENT),
        ("tinybert", REENTRANT, NO_GRADIENT),
        ("scratch", CLASSIFIER, "method='scratch' trains masked-LM students, model is a HomoBertForSequenceClassific"),
        ("minilm", {"student": OTHER_HEADS}, r"'minilm' is impossible .*: the student's heads \[2\] are not as"),
        ("tinybert", {"student": OTHER_HEADS}, r"'tinybert' is impossible .*: the student's heads \[2, 2\]"),
    ],
)
def test_what_a_method_can_not_do_is_refused(trainer_of, method, settings, message):
    with pytest.raises(ValueError, match=message):
        trainer_of(method, **settings)


def test_default_relation_heads_divide_both_widths(trainer_of):
    assert trainer_of("minilm_v2").args.num_relation_heads == 16


def test_an_impossible_student_is_refused_before_any_text_is_read(tmp_path):
    config = write_config(tmp_path, method="minilm")
    (tmp_path / "train.txt").unlink()
    with pytest.raises(ValueError, match="method='minilm' is impossible for this student: the student's heads"):
        distill(parse_run([str(config)]), lambda line: None)


def test_relations_are_of_the_teacher_that_is_named(trainer_of):
    """Whose heads, layers and sizes may be other ones than those of the model that lends the student its form."""
    start = make_teacher(num_attention_heads=2, num_hidden_layers=2)
    wide = make_teacher(hidden_size=48, num_attention_heads=4, num_hidden_layers=4)
    plan = WidthPlan.uniform(16, 2, LayerWidths(2, 8, 32)).to_json()
    with pytest.raises(ValueError, match=r"the student's heads \[2\] are not as many as the teacher's \[4\]"):
        trainer_of("minilm", model=start, teacher_model=wide, student=plan)
    trainer = trainer_of("minilm_v2", model=start, teacher_model=wide, student=plan, teacher_layer=3)
    assert trainer.args.num_relation_heads == 16  # divides 2 × 8 and 4 × 12
    whole = WidthPlan.uniform(32, 1, LayerWidths(2, 16, 64)).to_json()
    with pytest.raises(ValueError, match="teacher has hidden_size=48, the student 32; both must agree"):
        trainer_of("distilbert", model=start, teacher_model=wide, student=whole)
