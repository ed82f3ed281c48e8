"""Runs of embedding models: they start at 0, end at the plan, stay in the teacher's space, resume, are exported."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from commands import error_of
from datasets import Dataset
from rows import each
from run_traces import SaveAt, logs_of
from safetensors.torch import load_file
from tiny_architectures import OTHERS, tiny_architecture_config
from tiny_embeddings import (
    PLAIN,
    assert_neurons_are_scored_by_gradients,
    distilling_embeddings,
    make_rows,
    make_sentence_folder,
)
from tiny_models import randomized

from homodistil_hf import verify_export
from homodistil_hf.cli import main
from homodistil_hf.embedding.model import load_embedding_model, pooled
from homodistil_hf.embedding.texts import tokenize_texts
from homodistil_hf.embedding.trainer import fit_dense
from homodistil_hf.models.architectures import ARCHITECTURES

pytestmark = pytest.mark.slow

TEXTS = ["w7 w8 w9", "w10", ""]


@pytest.fixture
def make_embedding_trainer(make_trainer, tmp_path):
    def make(model=None, **settings):
        defaults = {"pruning_end_fraction": 0.0, "learning_rate": 1e-2}
        return distilling_embeddings(make_trainer, model or tmp_path / "teacher", **defaults | settings)

    return make


def test_the_rate_is_the_measured_one_where_none_is_given(make_embedding_trainer):
    trainer = make_embedding_trainer(learning_rate=None)
    assert trainer.args.learning_rate == 3e-3  # 1e-3 · 384 / 128, the narrowest that rates were measured with


def test_texts_are_read_as_the_command_reads_them(make_embedding_trainer, tmp_path):
    folder = make_sentence_folder(tmp_path / "model", prompts={"query": "w90 "}, default_prompt_name="query")
    words = "w7 w8 w9 w10 w11 w12 w13 w14 w15"
    texts = Dataset.from_dict({"text": [f"w{5 + row} w{6 + row} {words}" for row in range(40)]})
    trainer = make_embedding_trainer(folder, train_dataset=texts, eval_dataset=texts.select(range(16)))
    whole = load_embedding_model(folder)
    expected = tokenize_texts(texts, whole.tokenizer, max_length=12, prepare=whole.settings.prepared)
    assert trainer.train_dataset["input_ids"][:] == expected["input_ids"][:]
    assert expected["input_ids"][0][1] == whole.tokenizer.convert_tokens_to_ids("w90")
    found, again = trainer.evaluate(), trainer.evaluate(texts.select(range(16)))
    assert found["eval_cosine"] == again["eval_cosine"]


@pytest.mark.parametrize("shared", [{}, {"dense": 5}, {"truncate_dim": 8}])
def test_an_unpruned_student_is_its_teacher(make_embedding_trainer, tmp_path, shared):
    folder = make_sentence_folder(tmp_path / "model", **shared)
    trainer = make_embedding_trainer(folder, student="macs=1.0", max_steps=1)
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(0.0, abs=1e-12)
    assert (found["eval_cosine"], found["eval_neighbours"]) == (pytest.approx(1.0), 1.0)
    trainer.train()
    (terms,) = [entry for entry in logs_of(trainer) if "loss_vector" in entry]
    for name in ("vector", "hidden", "embedding"):
        assert terms[f"loss_{name}"] == pytest.approx(0.0, abs=1e-9), name


def test_vectors_are_learnt_in_the_teachers_space(make_embedding_trainer):
    trainer = make_embedding_trainer(max_steps=60, eval_strategy="steps", eval_steps=30)
    trainer.train()
    assert trainer.kept == trainer.plan
    assert trainer.distillation.dense.weight.shape == (32, 16)
    steps = [entry for entry in logs_of(trainer) if "loss_vector" in entry]
    for name in ("vector", "hidden", "embedding"):
        first, last = (sum(entry[f"loss_{name}"] for entry in part) for part in (steps[:5], steps[-5:]))
        assert 0 < last < first, name
    assert {name for name in steps[0] if name.startswith("loss_")} == {
        f"loss_{name}" for name in ("vector", "hidden", "embedding")
    }
    end = trainer.held_out_metrics
    assert set(end) >= {"cosine", "neighbours", "neighbours_in_index", "spread", "kept_fraction_hidden"}


def test_units_are_scored_by_how_far_vectors_move(make_embedding_trainer):
    trainer = make_embedding_trainer(num_scoring_batches=1)
    trainer.start_student()
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.zero_grad()
    trainer.model.eval()
    states = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
    pooling = trainer.embedding_model.settings.pooling
    vectors = trainer.distillation.mapped_and_own(pooled(states, batch["attention_mask"], pooling))[1]
    ((vectors * batch["labels"]).sum() / len(vectors)).backward()
    assert_neurons_are_scored_by_gradients(trainer)


def test_the_map_is_fitted_when_channels_go(make_embedding_trainer):
    trainer = make_embedding_trainer(max_steps=1, learning_rate=1e-12)
    trainer.train()
    fitted = trainer.evaluate()["eval_cosine"]
    identity = torch.zeros(32, 16)
    identity[:16] = torch.eye(16)
    trainer.distillation.dense.weight.data.copy_(identity)
    assert fitted > trainer.evaluate()["eval_cosine"]


def test_the_map_is_fitted_to_the_last_states_too(make_embedding_trainer):
    trainer = make_embedding_trainer(max_steps=4, learning_rate=1e-3)
    fit, weight, moves = trainer.fit_map, lambda: trainer.distillation.dense.weight.detach().clone(), []

    def noted():
        before = weight()
        fit()
        moves.append((trainer.state.global_step, float((weight() - before).norm())))

    trainer.fit_map = noted
    trainer.train()
    trainer.fit_map()
    assert [step for step, _ in moves] == [0, 4, 4]
    assert moves[2][1] < 0.5 * moves[1][1]  # less is left to fit


def test_layers_of_a_callers_model_stay_where_they_are(make_embedding_trainer, tmp_path):
    model = load_embedding_model(make_sentence_folder(tmp_path / "model", dense=5))
    trainer = make_embedding_trainer(model)
    (own,), (given,) = trainer.distillation.model.dense, model.dense
    assert own.linear is not given.linear  # the run's go to its device, exports take the caller's
    assert torch.equal(own.linear.weight, given.linear.weight)


def test_few_texts_move_the_map_little(make_embedding_trainer):
    trainer = make_embedding_trainer(student="1x32-4x8-64", max_steps=60)
    trainer.train()
    dense, held_out = trainer.distillation.dense, trainer.evaluate()["eval_cosine"]
    trainer.train_dataset = trainer.train_dataset.select(range(8))  # of fewer texts than channels
    before = dense.weight.clone()
    trainer.fit_map()
    assert not torch.equal(before, dense.weight)
    assert trainer.evaluate()["eval_cosine"] > held_out - 0.02


@pytest.mark.parametrize("architecture", OTHERS, ids=[architecture.model_type for architecture in OTHERS])
def test_every_architecture_can_be_narrowed(make_embedding_trainer, architecture, tmp_path):
    torch.manual_seed(1)
    encoder = randomized(architecture.encoder.stock(tiny_architecture_config(architecture)))
    folder = make_sentence_folder(tmp_path / "model", encoder=encoder)
    trainer = make_embedding_trainer(folder, max_steps=2)
    trainer.train()
    exported = load_embedding_model(trainer.export(tmp_path / "student"))
    assert type(exported.encoder) is architecture.encoder.stock
    assert_same_vectors(trainer, exported)


def assert_same_vectors(trainer, exported):
    inputs = exported.tokenize(TEXTS)
    trainer.model.eval()
    with torch.no_grad():
        states = trainer.model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        pooling = trainer.embedding_model.settings.pooling
        expected = trainer.distillation.mapped_and_own(pooled(states, inputs["attention_mask"], pooling))[1]
    assert torch.allclose(exported.encode(TEXTS), expected, atol=1e-5)


LOAD_ELSEWHERE = """
import json, sys
from sentence_transformers import SentenceTransformer
assert "homodistil_hf" not in sys.modules
model = SentenceTransformer(sys.argv[1])
facts = json.load(open(sys.argv[1] + "/facts.json"))
vectors = model.encode(facts["probe"]["texts"], convert_to_tensor=True)
difference = (vectors - vectors.new_tensor(facts["probe"]["vectors"]["query"])).abs().max()
print(json.dumps({"difference": float(difference),
    "prompts": model.prompts, "default": model.default_prompt_name, "similarity": model.similarity_fn_name,
    "max_seq_length": model.max_seq_length, "modules": [type(module).__name__ for module in model]}))
"""


@pytest.mark.parametrize("dense", [None, 5])
def test_sentence_transformers_reads_an_export(make_embedding_trainer, forked_python, tmp_path, dense):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    prompts = {"query": "w5 ", "document": ""}
    settings = {"prompts": prompts, "default_prompt_name": "query", "similarity_fn_name": "dot"}
    trainer = make_embedding_trainer(make_sentence_folder(tmp_path / "model", dense=dense, **settings), max_steps=2)
    trainer.train()
    folder = trainer.export(tmp_path / "student")
    command = [sys.executable, "-c", LOAD_ELSEWHERE, str(folder)]
    found = json.loads(forked_python.run(command, check=True, cwd=tmp_path).stdout)
    assert found.pop("difference") < 1e-5
    assert found == {
        "prompts": prompts,
        "default": "query",
        "similarity": "dot",
        "max_seq_length": 12,
        "modules": ["Transformer", "Pooling", "Dense", "Normalize"],  # with the teacher's own in it
    }


@pytest.mark.parametrize(
    ("name", "shared", "student"),
    [
        ("qwen3", {"pooling": "lasttoken", "padding_side": "left"}, "16-2x4-32"),
        ("eurobert", {"pooling": "mean"}, "24-2x8-32"),
        ("mistral", {"pooling": "lasttoken", "padding_side": "left"}, "macs=0.5"),
        ("gemma3_text", {"pooling": "mean", "dense": 40}, "16-2x4-32"),
    ],
)
def test_sentence_transformers_reads_an_export_of_llamas_layout(
    make_embedding_trainer, forked_python, tmp_path, name, shared, student
):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    architecture = ARCHITECTURES[name]
    torch.manual_seed(1)
    encoder = randomized(architecture.encoder.stock(tiny_architecture_config(architecture)))
    prompts = {"query": "w5 w6 ", "document": ""}
    folder = make_sentence_folder(tmp_path / "model", encoder=encoder, prompts=prompts, **shared)
    config = json.loads((folder / "config.json").read_text())
    # public embedding models of these types were saved as decoders
    config["architectures"] = [f"{architecture.encoder.stock_name.removesuffix('Model')}ForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))
    trainer = make_embedding_trainer(folder, student=student, width_multiple=4, max_steps=3)
    trainer.train()
    exported = trainer.export(tmp_path / "student")
    assert verify_export(exported).problems == ()
    command = [sys.executable, "-c", LOAD_ELSEWHERE, str(exported)]
    found = json.loads(forked_python.run(command, check=True, cwd=tmp_path).stdout)
    assert found["difference"] < 1e-5
    assert found["prompts"] == prompts
    stock = load_embedding_model(exported)
    assert type(stock.encoder) is architecture.encoder.stock
    assert stock.encoder.config.num_key_value_heads * 2 == stock.encoder.config.num_attention_heads
    assert stock.tokenizer.padding_side == shared.get("padding_side", "right")
    assert_same_vectors(trainer, stock)


def test_a_student_of_fewer_layers(make_embedding_trainer, tmp_path):
    trainer = make_embedding_trainer(student="1x16-2x8-32", max_steps=2, logging_steps=1)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["kept_fraction_layers"] for entry in logs] == [0.5, 0.5]
    assert logs[0]["kept_fraction_hidden"] == 0.5
    assert len(trainer.model.encoder.layer) == 1
    assert trainer.matched_layers == [1]
    fitted = trainer.evaluate()["eval_cosine"]
    assert_same_vectors(trainer, load_embedding_model(trainer.export(tmp_path / "student")))
    trainer.distillation.dense.weight.data.copy_(torch.eye(32, 16))
    assert fitted > trainer.evaluate()["eval_cosine"]  # the map was fitted to the layers that are left


@pytest.mark.parametrize("idle", [0, 1])
def test_the_layer_leaves_without_which_vectors_are_nearest(make_embedding_trainer, tmp_path, idle):
    model = load_embedding_model(make_sentence_folder(tmp_path / "model"))
    layer = model.encoder.encoder.layer[idle]
    for dense in (layer.attention.output.dense, layer.output.dense):
        torch.nn.init.zeros_(dense.weight)
        torch.nn.init.zeros_(dense.bias)
    trainer = make_embedding_trainer(model, student="1x16-2x8-32")
    trainer.start_student()
    assert trainer.pruner.gates.kept == (1 - idle,)


@pytest.mark.parametrize("dense", [None, 24])
def test_vectors_along_principal_axes(make_embedding_trainer, tmp_path, dense):
    folder = make_sentence_folder(tmp_path / "model", dense=dense)
    trainer = make_embedding_trainer(folder, output=7, max_steps=40)
    teacher = trainer.embedding_model
    axes = trainer.model.projections.axes.clone()
    assert torch.allclose(axes @ axes.T, torch.eye(7), atol=1e-5)
    trainer.train()
    steps = [entry["loss_vector"] for entry in logs_of(trainer) if "loss_vector" in entry]
    assert sum(steps[-5:]) < 0.8 * sum(steps[:5])
    student = trainer.export(tmp_path / "student")
    exported = load_embedding_model(student)
    assert (exported.dimension, len(exported.dense)) == (7, 1 + (dense is not None))
    assert_same_vectors(trainer, exported)
    assert torch.equal(load_file(student / "axes.safetensors")["axes"], axes)
    words = ["export", str(student), "--output", str(tmp_path / "pair"), "--format", "pair", "--teacher", str(folder)]
    assert main(words) == 0
    facts = json.loads((tmp_path / "pair" / "facts.json").read_text())
    expected = torch.nn.functional.normalize(teacher.encode(facts["probe"]["texts"]) @ axes.T, dim=-1)
    assert torch.allclose(torch.tensor(facts["probe"]["vectors"]["document"]), expected, atol=1e-4)


def test_principal_axes_keep_the_most(make_embedding_trainer):
    trainer = make_embedding_trainer(output=7)
    vectors = trainer.embedding_model.encode(
        [" ".join(f"w{i}" for i in row["input_ids"][1:-1]) for row in make_rows()]
    )
    axes = trainer.model.projections.axes
    largest = torch.linalg.svdvals(vectors)[:7].square().sum()
    assert float((vectors @ axes.T).square().sum()) == pytest.approx(float(largest), rel=1e-3)


def test_a_resumed_run_keeps_its_axes(make_embedding_trainer, tmp_path):
    whole = make_embedding_trainer(output=7, output_dir=str(tmp_path / "whole"), max_steps=6)
    whole.add_callback(SaveAt(3))
    whole.train()
    given = {"output": 7, "output_dir": str(tmp_path / "resumed"), "max_steps": 6}
    resumed = make_embedding_trainer(tmp_path / "teacher", **given)
    resumed.model.projections.axes.neg_()  # as another machine's eigenvectors might be
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert logs_of(resumed)[-1] == logs_of(whole)[-1]
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_a_space_of_its_own_needs_no_map(make_embedding_trainer, tmp_path):
    trainer = make_embedding_trainer(output="student", max_steps=40)
    trainer.train()
    steps = [entry for entry in logs_of(trainer) if "loss_vector" in entry]
    first, last = (sum(entry["loss_vector"] for entry in part) for part in (steps[:5], steps[-5:]))
    assert 0 < last < first
    exported = load_embedding_model(trainer.export(tmp_path / "student"))
    assert (exported.dimension, exported.dense) == (16, ())
    assert_same_vectors(trainer, exported)
    found = trainer.evaluate()
    assert {"eval_neighbours", "eval_spread"} <= set(found)
    assert "eval_cosine" not in found


def test_a_space_of_its_own_is_told_however_long_its_vectors_are(make_embedding_trainer, tmp_path, capsys):
    trainer = make_embedding_trainer(output="student", student="1x32-4x8-64", max_steps=1)
    trainer.train()
    assert "eval_cosine" not in trainer.evaluate()
    folder = trainer.export(tmp_path / "student")
    assert load_embedding_model(folder).dimension == 32
    assert "an index of the teacher's can stay" not in (folder / "README.md").read_text()
    words = ["export", str(folder), "--output", str(tmp_path / "pair"), "--format", "pair"]
    assert "needs one space, and this student has one of its own" in error_of(
        capsys, *words, "--teacher", str(tmp_path / "teacher")
    )


def test_no_path_of_this_machine_is_in_an_export(make_embedding_trainer, tmp_path):
    trainer = make_embedding_trainer(max_steps=1)
    trainer.train()
    with pytest.raises(ValueError, match="format='compact': sentence-transformers reads stock modules alone"):
        trainer.export(tmp_path / "student", "compact")
    drawn = torch.get_rng_state()
    folder = trainer.export(tmp_path / "student")
    assert torch.equal(torch.get_rng_state(), drawn)  # a run may go on after an export
    assert str(tmp_path) not in (folder / "facts.json").read_text() + (folder / "README.md").read_text()
    assert json.loads((folder / "facts.json").read_text())["settings"]["max_steps"] == 1


@pytest.mark.parametrize("dense", [None, 5])
def test_a_plain_student_needs_no_map(make_embedding_trainer, tmp_path, dense):
    folder = make_sentence_folder(tmp_path / "model", dense=dense)
    trainer = make_embedding_trainer(folder, student=PLAIN, plain=True, max_steps=4)
    trainer.train()
    assert torch.equal(trainer.distillation.dense.weight, torch.eye(32))
    export = trainer.export(tmp_path / "student")
    assert verify_export(export).problems == ()
    kinds = [module["type"].rpartition(".")[2] for module in json.loads((export / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", *["Dense"] * (dense is not None), "Normalize"]  # as its teacher
    student, teacher = load_embedding_model(export), load_embedding_model(folder)
    assert student.encoder.config.hidden_size == teacher.encoder.config.hidden_size == 32
    for own, one in zip(student.dense, teacher.dense, strict=True):
        assert torch.equal(own.linear.weight, one.linear.weight)
    assert student.encode(TEXTS).shape == teacher.encode(TEXTS).shape


def test_a_run_is_resumed_with_the_map_that_it_had(make_embedding_trainer, tmp_path):
    settings = {"student": PLAIN, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    make_embedding_trainer(**settings, plain=True).train()
    (checkpoint,) = tmp_path.glob("**/checkpoint-1")
    other = make_embedding_trainer(**settings, output_dir=str(tmp_path / "other"))
    with pytest.raises(ValueError, match="checkpoint-1 is of a run with plain=True, this one has plain=False; set it"):
        other.train(resume_from_checkpoint=str(checkpoint))


@pytest.mark.parametrize("changed", ["pooling", "dense", "length", "prompt", "default prompt"])
def test_a_run_is_resumed_with_a_teacher_that_makes_the_same_vectors(make_embedding_trainer, tmp_path, changed):
    settings = {"student": PLAIN, "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    make_sentence_folder(tmp_path / "dense", dense=5)
    trainer = make_embedding_trainer(tmp_path / "dense", **settings)
    trainer.train()
    (checkpoint,), whole = tmp_path.glob("**/checkpoint-1"), trainer.embedding_model
    other = make_embedding_trainer(tmp_path / "dense", **settings, output_dir=str(tmp_path / "other"))
    if changed == "dense":
        torch.nn.init.ones_(other.embedding_model.dense[0].linear.bias)
    else:
        change = {
            "pooling": {"pooling": "cls"},
            "length": {"max_seq_length": 12},
            "prompt": {"prompts": {"query": "w5 "}, "similarity": "cosine"},
            "default prompt": {"prompts": {"query": "w5 "}, "default_prompt_name": "query"},
        }[changed]
        other.embedding_model = replace(whole, settings=replace(whole.settings, **change))
    if changed in ("length", "prompt"):  # rows tell the length; prompts that no row has make no other vectors
        other.train(resume_from_checkpoint=str(checkpoint))
        return
    with pytest.raises(ValueError, match="checkpoint-1 is of a teacher that makes other vectors of its states"):
        other.train(resume_from_checkpoint=str(checkpoint))


def test_a_plain_student_of_fewer_layers_has_no_map_either(make_embedding_trainer, tmp_path):
    trainer = make_embedding_trainer(student="macs=0.45,layers=1", plain=True, max_steps=2, width_multiple=1)
    assert (trainer.plan.hidden_size, len(trainer.plan.layers)) == (32, 1)
    trainer.train()
    assert load_embedding_model(trainer.export(tmp_path / "student")).dense == ()


OF_OUTPUT = "output=.*: expected 'teacher', 'student', or a length from 1 to 31"


@each(
    ("settings", "message"),
    [
        ({"vector_weight": -1.0}, "vector_weight=-1.0 is outside .0, inf.; the default is 30.0"),
        ({"pruning_end_fraction": 0.3}, "pruning_end_fraction=0.3 has no part in .*: everything is pruned before the"),
        ({"attention_weight": 1.0}, "attention_weight=1.0 has no part in .*: attention scores are not compared"),
        (
            {"vector_weight": 0.0, "hidden_weight": 0.0, "embedding_weight": 0.0},
            "hidden_weight, embedding_weight, vector_weight are all 0, so nothing would be learnt",
        ),
        *[({"output": output}, OF_OUTPUT) for output in ("both", 0, 32, True, 1.5)],
        (
            {"student": PLAIN, "plain": True, "output": 7},
            "plain=True with output=7: shorter vectors need a Dense, whi",
        ),
    ],
)
def test_settings_without_sense_are_refused(make_embedding_trainer, settings, message):
    with pytest.raises(ValueError, match=message):
        make_embedding_trainer(**settings)


def test_one_collapsed_set_of_several_is_enough(make_embedding_trainer):
    sets = {"a": make_rows(16, seed=1), "b": make_rows(16, seed=2)}
    trainer = make_embedding_trainer(max_steps=1, eval_dataset=sets)
    trainer.train()
    assert {"eval_a_spread", "eval_b_spread"} <= set(trainer.evaluate())
    for module in trainer.model.encoder.layer[1].output.children():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.data.zero_()  # so that all tokens have its bias
    with pytest.raises(FloatingPointError, match=r"collapsed: similarities .* vary by 0% of the teacher's; lower"):
        trainer.evaluate()


def test_vectors_that_are_compared_by_dot_product_are_learnt_with_their_lengths(make_embedding_trainer, tmp_path):
    folder = make_sentence_folder(tmp_path / "model", normalizes=False, similarity_fn_name="dot")
    trainer = make_embedding_trainer(folder, max_steps=20)
    trainer.train()
    teacher, student = load_embedding_model(folder), load_embedding_model(trainer.export(tmp_path / "student"))
    assert (student.settings.normalizes, student.similarity) == (False, "dot")
    rows = [ids[1:-1] for ids in make_rows(32, seed=1)["input_ids"]]
    texts = [" ".join(teacher.tokenizer.convert_ids_to_tokens(ids)) for ids in rows]
    found, expected = student.encode(texts), teacher.encode(texts)
    assert expected.norm(dim=-1).std() > 0.01
    errors = (found - expected).square().sum(-1) / expected.square().sum(-1)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(float(errors.mean()), rel=1e-4)
    assert float(errors.mean()) < 0.5


def test_the_map_is_that_of_least_squares():
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(40, 3, generator=generator, dtype=torch.float64)
    target = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    found = fit_dense(states.T @ states, states.T @ target, ridge=0.0)
    assert torch.allclose(found.T, torch.linalg.lstsq(states, target).solution)
    shrunk = fit_dense(states.T @ states, states.T @ target, ridge=10.0)
    assert shrunk.norm() < found.norm()
    alike = states[:, :1].expand(-1, 3)  # three times the same channel
    assert fit_dense(alike.T @ alike, alike.T @ target).isfinite().all()


def test_a_map_stays_exact_in_bfloat16(make_trainer, tmp_path):
    settings = {"bf16": True, "use_cpu": True, "max_steps": 3, "pruning_end_fraction": 0.0}
    trainer = distilling_embeddings(make_trainer, tmp_path / "teacher", **settings)
    types = []
    trainer.distillation.dense.register_forward_hook(
        lambda map, _, vectors: types.append((map.weight.dtype, vectors.dtype))
    )
    trainer.train()
    assert set(types) == {(torch.float32, torch.float32)}
    assert trainer.kept == trainer.plan
