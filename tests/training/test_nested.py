"""Runs of nested students: all sizes learn, each is exported as the model that it was, what can't be is refused."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from commands import error_of
from run_traces import STEP_BY_STEP, logs_of
from students import assert_same_logits, logits_of, make_batch, unlabelled
from tiny_architectures import rows_for, tiny_architecture_teacher
from tiny_files import write_config
from tiny_models import make_blocks, make_teacher
from transformers import AutoModelForMaskedLM, BertForMaskedLM

from homodistil_hf import load_nested, verify_export
from homodistil_hf.cli import main
from homodistil_hf.embedding.multi_vector_trainer import MultiVectorDistilArguments
from homodistil_hf.embedding.reranker import RerankerDistilArguments
from homodistil_hf.embedding.sparse_trainer import SparseDistilArguments
from homodistil_hf.export.export_folder import load_nested_export
from homodistil_hf.methods.baselines.one_shot import OneShotArguments, PrunedFirstArguments
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.cost import encoder_macs
from homodistil_hf.models.widths import LayerWidths, WidthPlan, widths_of
from homodistil_hf.training.nested import NestedStudent

OTHERS = [
    *(OneShotArguments, PrunedFirstArguments),
    *(RerankerDistilArguments, SparseDistilArguments, MultiVectorDistilArguments),
]
SIZES = ["24-3x8-48", "16-2x8-32", "8-2x4-16"]
NESTED = STEP_BY_STEP | {"student": SIZES, "nested": True, "learning_rate": 1e-2}
WHOLE_HEADS = [*SIZES[:2], "8-1x4-16"]


def uneven(*sizes):
    layers = [{"num_attention_heads": 3, "head_dim": 8, "intermediate_size": size} for size in sizes]
    return {"hidden_size": 24, "layers": layers}


def models_of(trainer):
    """Name → the model in memory of each size."""
    return dict(zip(trainer.plans, [trainer.model, *trainer.nested.models()], strict=True))


def assert_exports_are_the_members(trainer, folder, tmp_path):
    student, batch = trainer.export(folder), unlabelled(make_batch())
    trainer.model.eval()
    assert verify_export(student).problems == ()
    for name, model in models_of(trainer).items():
        expected = logits_of(model, batch)
        assert_same_logits(logits_of(load_nested(student, name), batch), expected)
        words = ["export", str(student), "--member", name, "--output", str(tmp_path / name)]
        assert main(words) == 0
        assert_same_logits(logits_of(load_nested_export(student, name)[0], batch), expected)


@pytest.mark.slow
def test_all_sizes_learn_and_are_exported(make_trainer, tmp_path):
    trainer = make_trainer(**NESTED | {"max_steps": 40, "num_scoring_batches": 2})
    before = trainer.evaluate()
    assert before["eval_kl"] == before["eval_8-2x4-16_kl"] == pytest.approx(0.0, abs=1e-6)
    widths = []
    step = trainer.pruner.step
    trainer.pruner.step = lambda *words, **how: (
        widths.append(trainer.nested.parts[-1].member.model.config.hidden_size),
        step(*words, **how),
    )[1]
    trainer.train()
    assert sorted(widths, reverse=True) == widths
    assert (widths[0], widths[-1]) == (32, 8)
    assert len(set(widths)) > 4  # the smallest gets narrower little by little
    assert (
        widths_of(trainer.model.config)
        == trainer.plan
        == WidthPlan.from_dict(
            {"hidden_size": 24, "num_attention_heads": 3, "head_dim": 8, "intermediate_size": 48}, 2
        )
    )
    metrics = trainer.evaluate()
    kl = [metrics["eval_kl"], *(metrics[f"eval_{size}_kl"] for size in SIZES[1:])]
    assert 0 < kl[0] < kl[1] < kl[2]
    facts = json.loads((trainer.export(tmp_path / "again") / "facts.json").read_text())
    assert facts["evaluation"]["kl"] == kl[0]
    assert not any(name.startswith("8-2x4-16") for name in facts["evaluation"])
    assert_exports_are_the_members(trainer, tmp_path / "student", tmp_path)
    small = json.loads((tmp_path / SIZES[2] / "facts.json").read_text())
    assert small["evaluation"]["kl"] == kl[2]
    assert small["student"]["plan"]["hidden_size"] == 8
    stock = AutoModelForMaskedLM.from_pretrained(tmp_path / SIZES[2])
    assert type(stock) is BertForMaskedLM
    files = {file.name: file.stat().st_size for file in (tmp_path / "student").iterdir()}
    assert "nested.json" in files
    assert "nested.safetensors" not in files  # members of words have nothing of their own


@pytest.mark.slow
@pytest.mark.parametrize(("name", "sizes"), [("modernbert", WHOLE_HEADS), ("nomic_bert", SIZES), ("eurobert", SIZES)])
def test_rotary_pairs_and_shared_keys_come_back(make_trainer, tmp_path, name, sizes):
    architecture = ARCHITECTURES[name]
    if name == "eurobert":
        sizes = ["24-4x8-48", "16-2x8-32", "8-2x4-16"]
    teacher = tiny_architecture_teacher(architecture, architecture.heads[0])
    trainer = make_trainer(model=teacher, **NESTED | {"student": sizes, "num_scoring_batches": 2})
    trainer.train()
    pairs = trainer.model.config.rotary_pairs
    assert any(kept != sorted(kept) for kept in pairs.values())  # pairs are in the order of their scores
    assert_exports_are_the_members(trainer, tmp_path / "student", tmp_path)


@pytest.mark.slow
def test_labels_are_learnt_by_all_sizes(make_trainer, tmp_path):
    architecture = ARCHITECTURES["bert"]
    head = next(one for one in architecture.heads if one.kind.name == "token_classification")
    settings = {name: NESTED[name] for name in NESTED if name not in ("mlm_weight", "mlm_probability")}
    teacher = make_teacher("token_classification", num_labels=2)
    trainer = make_trainer(model=teacher, **rows_for(head) | settings | {"max_steps": 12, "num_scoring_batches": 2})
    trainer.train()
    found = trainer.evaluate()
    assert {"eval_task_accuracy", "eval_8-2x4-16_task_accuracy", "eval_8-2x4-16_kl"} <= found.keys()
    assert_exports_are_the_members(trainer, tmp_path / "student", tmp_path)


@pytest.mark.slow
def test_each_step_trains_one_size_in_turn(make_trainer):
    trainer = make_trainer(**NESTED | {"max_steps": 6, "pruning_start_fraction": 0.0, "pruning_end_fraction": 0.01})
    own, seen = trainer.model.forward, []
    losses = [trainer.distillation, *(part.distillation for part in trainer.nested.parts)]
    for name, loss in zip(SIZES, losses, strict=True):
        terms = loss.terms
        loss.terms = lambda *words, name=name, terms=terms: (
            seen.append((trainer.state.global_step, name)),
            terms(*words),
        )[1]
    trainer.train()
    # the plan is reached behind the first step, so until then all are the largest
    assert seen == [(0, SIZES[0]), *((step, SIZES[step % 3]) for step in range(1, 6))]
    assert trainer.model.forward == own
    assert all("loss_kl" in entry for entry in logs_of(trainer) if "loss" in entry)


def test_a_step_of_a_smaller_size_is_its_own_whole_step(make_trainer):
    trainer = make_trainer(**NESTED | {"max_steps": 2, "pruning_start_fraction": 0.0, "pruning_end_fraction": 0.01})
    trainer.train()
    part, batch = trainer.nested.parts[-1], trainer.prepare_batch(make_batch())
    counts = trainer.count(batch)
    trainer.model.zero_grad()
    terms, _ = trainer.nested.terms(trainer.model, batch, counts, step=2)
    expected, _ = part.distillation.terms(part.member.take_weights(), batch, counts)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}
    )
    trainer.distillation.total(terms).backward()
    # units that this size hasn't learn nothing from it
    words = trainer.model.get_input_embeddings().weight.grad
    width = part.member.plan.hidden_size
    assert words[:, :width].abs().sum() > 0
    assert words[:, width:].abs().sum() == 0


def test_weights_and_state_are_those_of_the_largest_alone(make_trainer):
    def trained_numbers(**settings):
        schedule = NESTED | {"max_steps": 4, "pruning_start_fraction": 0.0, "pruning_end_fraction": 0.01}
        trainer = make_trainer(**schedule | settings)
        trainer.train()
        state = [values for of_one in trainer.optimizer.state.values() for values in of_one.values()]
        return [
            sum(parameter.numel() for parameter in trainer.model.parameters()),
            sum(values.numel() for values in state if values.dim()),
            sum(parameter.numel() for parameter in trainer.model.get_submodule("projections").parameters()),
        ]

    weights, state, projections = trained_numbers()
    own_weights, own_state, own_projections = trained_numbers(student=SIZES[0], nested=False)
    assert projections == 3 * own_projections
    assert weights - projections == own_weights - own_projections
    assert state - own_state == 2 * (projections - own_projections)


@pytest.mark.slow
def test_a_checkpoint_of_other_sizes_is_refused(make_trainer):
    saving = NESTED | {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    make_trainer(**saving).train()
    for sizes in ([*SIZES[:2], "8-1x8-8"], [SIZES[0], "20-2x8-40", SIZES[2]], SIZES[:2]):
        trainer = make_trainer(**saving | {"student": sizes})
        with pytest.raises(ValueError, match=r"is of smaller sizes=.*, this run of smaller sizes=.*the same sizes"):
            trainer.train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_another_size_than_was_trained_is_found(make_trainer, tmp_path):
    trainer = make_trainer(**NESTED | {"max_steps": 4})
    trainer.train()
    trainer.nested.parts[0].member.plan = WidthPlan.uniform(16, 2, LayerWidths(2, 8, 24))
    (problem,) = verify_export(trainer.export(tmp_path / "student")).problems
    assert problem.startswith("member 16-2x8-32: hidden states in training: expected a relative difference of at most")


@pytest.mark.slow
def test_sizes_from_files_have_their_names_without_folders(make_trainer, tmp_path):
    files = [tmp_path / "wide.json", tmp_path / "narrow.json"]
    for file, sizes in zip(files, ((48, 32), (16, 8)), strict=True):
        file.write_text(json.dumps(uneven(*sizes)))
    trainer = make_trainer(**NESTED | {"student": [*map(str, files)], "max_steps": 4})
    trainer.train()
    student = trainer.export(tmp_path / "student")
    assert [*trainer.plans] == ["wide", "narrow"]
    assert str(tmp_path) not in (student / "nested.json").read_text()
    for wanted in ("narrow", str(files[1])):
        assert widths_of(load_nested(student, wanted).config) != widths_of(trainer.model.config)


@pytest.mark.slow
def test_sizes_keep_their_metrics_of_several_evaluation_sets(make_trainer, tmp_path):
    trainer = make_trainer(**NESTED | {"max_steps": 4, "eval_dataset": {"a": make_blocks(8), "b": make_blocks(8)}})
    trainer.train()
    trainer.evaluate()
    sizes = json.loads((trainer.export(tmp_path / "student") / "facts.json").read_text())["sizes"]
    for of_size in sizes.values():
        assert {"a_kl", "b_kl"} <= of_size.keys()
        assert not any(name in key for key in of_size for name in SIZES)


@pytest.mark.slow
def test_gradient_checkpointing_is_of_all_sizes(make_trainer):
    schedule = NESTED | {"max_steps": 4, "pruning_start_fraction": 0.0, "pruning_end_fraction": 0.01}
    losses = []
    for is_on in (False, True):
        trainer = make_trainer(**schedule | {"gradient_checkpointing": is_on})
        trainer.train()
        losses.append([entry["loss"] for entry in logs_of(trainer) if "loss" in entry])
        layers = [
            module for module in trainer.nested.models()[0].modules() if hasattr(module, "gradient_checkpointing")
        ]
        assert layers
        assert all(layer.gradient_checkpointing is is_on for layer in layers)
    assert losses[0] == pytest.approx(losses[1])


@pytest.mark.slow
def test_shares_are_of_the_model_that_the_student_began_as(make_trainer, tmp_path):
    head = next(one for one in ARCHITECTURES["bert"].heads if one.kind.name == "sequence_classification")
    settings = {name: NESTED[name] for name in NESTED if name not in ("mlm_weight", "mlm_probability")}
    settings |= {"student": ["macs=0.5", "macs=0.25"], "width_multiple": 4, "num_scoring_batches": 2, "max_steps": 4}
    teacher = make_teacher(
        "sequence_classification", num_labels=2, hidden_size=64, num_attention_heads=8, intermediate_size=128
    )
    trainer = make_trainer(model=make_teacher(), teacher_model=teacher, **rows_for(head) | settings)
    trainer.train()
    student = trainer.export(tmp_path / "student")
    for name, plan in trainer.plans.items():
        assert load_nested(student, macs=float(name.removeprefix("macs="))).config.intermediate_size == (
            plan.layers[0].intermediate_size
        )
    with pytest.raises(ValueError, match=r"member='macs=0.1' is none of .* from macs=0.[34]"):
        load_nested(student, macs=0.1)


@pytest.mark.slow
def test_an_export_of_one_size_says_nothing_of_others(make_trainer, tmp_path):
    trainer = make_trainer(**NESTED | {"max_steps": 4})
    trainer.train()
    student = trainer.export(tmp_path / "student")
    assert main(["export", str(student), "--output", str(tmp_path / "largest")]) == 0
    assert main(["export", str(student), "--member", SIZES[1], "--output", str(tmp_path / "small")]) == 0
    for folder in ("largest", "small"):
        assert "nested.json" not in (tmp_path / folder / "README.md").read_text()
        assert "sizes" not in json.loads((tmp_path / folder / "facts.json").read_text())
    training = json.loads((tmp_path / "small" / "facts.json").read_text())["training"]
    assert training["num_steps"] == 4
    assert not any(name.startswith("kept_fraction") for name in training)


def test_the_teacher_runs_once_a_step(make_trainer):
    trainer = make_trainer(**NESTED)
    teacher = trainer.distillation.teacher
    inputs = unlabelled(make_batch())
    with teacher.remembering():
        first = teacher(**inputs)
        assert teacher(**inputs) is first
        assert teacher(exact=True, **inputs) is not first
    assert teacher(**inputs) is not first


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"student": "macs=0.5"},
            r"nested=True with student='macs=0.5': several sizes share their weights; name them",
        ),
        ({"student": ["macs=0.5"]}, r"nested=True with student=.*macs=0.5.*: several sizes"),
        ({"student": ("macs=0.25", "macs=0.5")}, "is wider than that of"),
        ({"student": ["macs=0.5", "macs=0.5"]}, "has the widths of"),
        ({"student": ["macs=0.5", "latency_ms=5"]}, "no budgets of time"),
        ({"student": ["16-2x8-32", "1x16-2x8-16"]}, "has 1 of 2 layers; the members of a nested student have all"),
        ({"student": ["16-2x8-32", "12-3x4-16"]}, "num_attention_heads=3 is wider than that of"),
        (
            {"plan": WidthPlan.uniform(16, 2, LayerWidths(2, 8, 32))},
            r"plan=.*16.* beside nested=True: student='24-3x8-48' is the largest size, .*24.*; leave plan out",
        ),
        (
            {"student": [uneven(48, 32), uneven(32, 24), uneven(16, 8)]},
            "student names 3 sizes by 1 names, .*: long plans lose their ends, .* to a file of another name",
        ),
        ({"attention_weight": 0.5}, "attention_weight=0.5 .*heads of smaller members are not compared"),
    ],
)
def test_impossible_sizes_are_refused(make_trainer, settings, words):
    with pytest.raises(ValueError, match=words):
        make_trainer(**NESTED | settings)


@pytest.mark.parametrize("kind", OTHERS)
def test_other_methods_refuse_it(kind, tmp_path):
    with pytest.raises(ValueError, match="nested=True has no part in a run of"):
        kind(str(tmp_path), student=SIZES, nested=True, report_to="none", use_cpu=True)


def test_a_list_without_it_is_no_student_of_a_trainer(make_trainer):
    with pytest.raises(ValueError, match="unknown"):
        make_trainer(student=SIZES)


@pytest.mark.slow
def test_the_command_makes_one_folder(tmp_path, capsys):
    config = str(write_config(tmp_path, student=["macs=0.5", "macs=0.25"], width_multiple=4, pruning_end_fraction=0.5))
    assert main(["distill", config, "--nested", "true"]) == 0
    assert "It is the largest of 2 sizes in this folder" in capsys.readouterr().out
    run = tmp_path / "run"
    results = json.loads((run / "results.json").read_text())
    assert [row["name"] for row in results["models"]] == ["teacher", "macs=0.5", "macs=0.25"]
    sizes = [row["num_parameters"] for row in results["models"]]
    assert sizes == sorted(sizes, reverse=True)
    assert [row["name"] for row in results["nested"]] == ["macs=0.5", "macs=0.25"]
    assert results["settings"]["student"] == ["macs=0.5", "macs=0.25"]
    for page in (run / "report.html", run / "student" / "README.md"):
        assert "Sizes in this folder" in page.read_text()
        assert f"{results['models'][2]['num_parameters']:,}" in page.read_text()
    assert main(["export", str(run), "--member", "1/4", "--output", str(tmp_path / "small")]) == 0
    small = AutoModelForMaskedLM.from_pretrained(tmp_path / "small")
    assert sum(p.numel() for p in small.parameters()) == sizes[2]
    assert_same_logits(logits_of(small), logits_of(load_nested(run, macs=0.25)))
    told = error_of(capsys, "export", str(run), "--member", "macs=0.6", "--output", str(tmp_path / "other"))
    assert "member='macs=0.6' is none of the nested student's: macs=0.5, macs=0.25" in told
    told = error_of(capsys, "export", str(tmp_path / "small"), "--member", "1/4", "--output", str(tmp_path / "other"))
    assert "has no nested.json, so it holds one size alone" in told
    with pytest.raises(
        ValueError, match="member=None, macs=None, latency_ms=None: name one of them, such as macs=0.25"
    ):
        load_nested(run)


@pytest.mark.slow
def test_a_size_between_two_is_the_larger_one_with_narrower_ffns(make_trainer, tmp_path, caplog, capsys):
    trainer = make_trainer(**NESTED | {"student": ["24-3x8-48", "16-2x8-16"]})
    trainer.train()
    student = trainer.export(tmp_path / "student")
    teacher = encoder_macs(widths_of(make_teacher().config))
    narrow, middle, wide = (WidthPlan.uniform(24, 2, LayerWidths(3, 8, size)) for size in (16, 32, 48))
    least, most = (encoder_macs(plan) / teacher for plan in (narrow, wide))
    share = f"macs={(least + most) / 2 + 1e-3:.3f}"
    between, largest = load_nested(student, share), BertForMaskedLM.from_pretrained(student)
    assert f"{share} was not trained" in caplog.text
    assert widths_of(between.config) == middle
    named = dict(largest.named_parameters())
    for name, weight in between.named_parameters():
        assert torch.equal(weight, named[name][tuple(slice(size) for size in weight.shape)]), name
    assert main(["export", str(student), "--member", share, "--output", str(tmp_path / "half")]) == 0
    facts = json.loads((tmp_path / "half" / "facts.json").read_text())
    assert not facts.get("evaluation")  # it wasn't measured
    assert "this size: not trained itself" in (tmp_path / "half" / "README.md").read_text()
    assert verify_export(tmp_path / "half").problems == ()
    told = error_of(capsys, "export", str(student), "--member", "0.1", "--output", str(tmp_path / "other"))
    assert "member='macs=0.1' is none of the nested student's: 24-3x8-48, 16-2x8-16" in told
    assert f"a share from macs={math.ceil(1000 * least) / 1000:g} to {most:.3g}" in told


def test_metrics_are_of_the_size_whose_whole_name_they_have():
    plan = WidthPlan(16, (LayerWidths(2, 8, 16),))
    parts = [SimpleNamespace(member=SimpleNamespace(name=name, plan=plan)) for name in ("small", "very_small")]
    metrics = {"kl": 1.0, "small_kl": 2.0, "very_small_kl": 3.0, "wiki_very_small_kl": 4.0, "wiki_kl": 5.0}
    found = NestedStudent.members(SimpleNamespace(parts=parts), "base", plan, metrics)
    assert [(one.name, one.evaluation) for one in found] == [
        ("base", {"kl": 1.0, "wiki_kl": 5.0}),
        ("small", {"kl": 2.0}),
        ("very_small", {"kl": 3.0, "wiki_kl": 4.0}),
    ]
