"""Runs of sparse encoders: they start at 0, end at the plan, stay in the teacher's index, are exported and read."""

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import error_of
from rows import each
from run_traces import logs_of
from tiny_architectures import tiny_architecture_config
from tiny_embeddings import assert_neurons_are_scored_by_gradients, distilling_embeddings, make_sentence_folder
from tiny_models import VOCAB_SIZE, randomized
from tiny_sparse import TABLE, distilling_sparse_vectors, make_sparse_folder

from homodistil_hf import verify_export
from homodistil_hf.cli import main
from homodistil_hf.distillation.losses import vector_error
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.embedding.sparse import all_positions, load_sparse_model
from homodistil_hf.embedding.texts import directions
from homodistil_hf.models.architectures import ARCHITECTURES
from homodistil_hf.models.architectures.architecture import MASKED_LM

pytestmark = pytest.mark.slow

TEXTS = ["w7 w8 w9", "w10", ""]
WITH_HEAD = [one for one in ARCHITECTURES.values() if one.masked_lm is not None and one.model_type != "bert"]


@pytest.fixture
def make_sparse_trainer(make_trainer, tmp_path):
    def make(model=None, **settings):
        defaults = {"pruning_end_fraction": 0.0, "learning_rate": 1e-2}
        return distilling_sparse_vectors(make_trainer, model or tmp_path / "teacher", **defaults | settings)

    return make


def vectors_of(trainer, inputs):
    """A student's vectors in training."""
    outputs = trainer.model(**inputs, **all_positions(inputs["input_ids"]))
    return trainer.distillation.model.words(trainer.model, outputs, inputs)


@each("how", [{}, {"activation": "log1p_relu"}, {"padding_side": "left"}])
def test_an_unpruned_student_is_its_teacher(make_sparse_trainer, tmp_path, how):
    folder = make_sparse_folder(tmp_path / "model", **how)
    trainer = make_sparse_trainer(folder, student="macs=1.0", max_steps=1)
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(0.0, abs=1e-12)
    assert (found["eval_cosine"], found["eval_neighbours"]) == (pytest.approx(1.0), 1.0)
    of_teacher = trainer.evaluate_teacher()
    assert 0 < found["eval_active_dims"] == of_teacher["active_dims"] < VOCAB_SIZE
    trainer.train()
    (terms,) = [entry for entry in logs_of(trainer) if "loss_vector" in entry]
    for name in ("vector", "hidden", "embedding"):
        assert terms[f"loss_{name}"] == pytest.approx(0.0, abs=1e-9), name


def test_vectors_are_learnt_and_measured(make_sparse_trainer):
    trainer = make_sparse_trainer(max_steps=60, eval_strategy="steps", eval_steps=30)
    trainer.train()
    assert trainer.kept == trainer.plan
    steps = [entry for entry in logs_of(trainer) if "loss_vector" in entry]
    for name in ("vector", "hidden", "embedding"):
        first, last = (sum(entry[f"loss_{name}"] for entry in part) for part in (steps[:5], steps[-5:]))
        assert 0 < last < first, name
    found, whole = trainer.evaluate(), trainer.embedding_model
    # the measurement, by vectors that are held as they are
    rows = trainer.data_collator([trainer.eval_dataset[row] for row in range(32)])
    inputs = {name: rows[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        own, theirs = vectors_of(trainer, inputs), whole.of_inputs(inputs)
    assert found["eval_loss"] == pytest.approx(float(vector_error(own, theirs)) / 32, rel=1e-4)
    assert found["eval_cosine"] == pytest.approx(float(torch.cosine_similarity(own, theirs).mean()), rel=1e-4)
    assert found["eval_active_dims"] == pytest.approx(float((own > 0).sum(1).float().mean()))
    assert set(found) >= {"eval_neighbours", "eval_neighbours_in_index", "eval_spread"}


def test_units_are_scored_by_how_far_vectors_move(make_sparse_trainer):
    trainer = make_sparse_trainer(num_scoring_batches=1)
    trainer.start_student()
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.zero_grad()
    trainer.model.eval()
    vectors = vectors_of(trainer, {name: batch[name] for name in ("input_ids", "attention_mask")})
    ((vectors * directions(batch["labels"], VOCAB_SIZE)).sum() / len(vectors)).backward()
    assert_neurons_are_scored_by_gradients(trainer)


@pytest.mark.parametrize("architecture", WITH_HEAD, ids=[architecture.model_type for architecture in WITH_HEAD])
def test_every_architecture_with_a_head_can_be_narrowed(make_sparse_trainer, architecture, tmp_path):
    torch.manual_seed(1)
    head = next(head for head in architecture.heads if head.kind is MASKED_LM)
    folder = make_sparse_folder(
        tmp_path / "model", model=randomized(head.stock(tiny_architecture_config(architecture)))
    )
    trainer = make_sparse_trainer(folder, max_steps=2)
    trainer.train()
    exported = load_sparse_model(trainer.export(tmp_path / "student"))
    assert type(exported.stock_encoder) is head.stock
    assert_same_vectors(trainer, exported)


def assert_same_vectors(trainer, exported):
    trainer.model.eval()
    with torch.no_grad():
        expected = vectors_of(trainer, dict(exported.tokenize(TEXTS)))
    assert torch.allclose(exported.encode(TEXTS), expected, atol=1e-5)


LOAD_ELSEWHERE = """
import json, sys
import torch
from sentence_transformers import SparseEncoder
model, expected = SparseEncoder(sys.argv[1], device="cpu"), torch.tensor(json.loads(sys.argv[3]))
texts = json.loads(sys.argv[2])
found, queries = model.encode_document(texts).to_dense(), model.encode_query(texts).to_dense()
kinds = [type(module).__name__ for module in model.children()]
difference = float((found - expected).abs().max())
print(json.dumps({"difference": difference, "queries": queries.tolist(), "kinds": kinds}))
"""


@each("has_router", [False, True])
def test_sentence_transformers_reads_an_export(make_sparse_trainer, forked_python, tmp_path, has_router):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    how = {"has_router": has_router, "is_new": has_router, "activation": "log1p_relu"}
    folder = make_sparse_folder(tmp_path / "model", prompts={"query": "", "document": "w5 w6 "}, **how)
    trainer = make_sparse_trainer(folder, student="16-2x4-32", width_multiple=4, max_steps=3)
    trainer.train()
    export = trainer.export(tmp_path / "student")
    report = verify_export(export)
    assert report.problems == ()
    assert report.max_relative_difference < 1e-5
    exported = load_sparse_model(export)
    assert_same_vectors(trainer, exported)

    def read(place):
        vectors = load_sparse_model(place).encode(TEXTS, prompt_name="document").tolist()
        command = [sys.executable, "-c", LOAD_ELSEWHERE, str(place), json.dumps(TEXTS), json.dumps(vectors)]
        return json.loads(forked_python.run(command, check=True, cwd=tmp_path).stdout)

    found, teacher = read(export), read(folder)
    assert found["difference"] < 1e-5
    assert found["kinds"] == (["Router"] if has_router else ["MLMTransformer", "SpladePooling"])
    assert (found["queries"] == teacher["queries"]) is has_router  # they are looked up, and stay
    card, facts = (export / "README.md").read_text(), json.loads((export / "facts.json").read_text())
    assert "→ sparse vectors of 96 words." in card
    assert "SparseEncoder(name)" in card
    assert ("Queries are looked up in the teacher's table, documents encoded by the student." in card) is has_router
    assert facts["student"]["architecture"] == "BertForMaskedLM"
    assert str(tmp_path) not in json.dumps(facts) + card


def test_verify_finds_what_was_changed(make_sparse_trainer, tmp_path):
    trainer = make_sparse_trainer(make_sparse_folder(tmp_path / "model", has_router=True), max_steps=1)
    trainer.train()
    with pytest.raises(ValueError, match="format='compact': sentence-transformers reads stock modules alone"):
        trainer.export(tmp_path / "student", "compact")
    export = trainer.export(tmp_path / "student")
    for name, values in {
        "document_1_SpladePooling/config.json": {"activation_function": "log1p_relu"},
        f"{TABLE}/config.json": {"path": "elsewhere.json"},
    }.items():
        before = (export / name).read_text()
        (export / name).write_text(json.dumps(values))
        assert any(name in problem for problem in verify_export(export).problems)
        (export / name).write_text(before)
    assert verify_export(export).ok


def test_layers_go_by_their_scores_at_once(make_sparse_trainer, tmp_path):
    trainer = make_sparse_trainer(student="1x16-2x8-32", max_steps=2, logging_steps=1)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["kept_fraction_layers"] for entry in logs] == [0.5, 0.5]
    assert_same_vectors(trainer, load_sparse_model(trainer.export(tmp_path / "student")))


@each(
    ("settings", "message"),
    [
        ({"output": 7}, "output=7 has no part in .*: the student has its teacher's words, and so its space; leave it"),
        ({"kl_weight": 2.0}, "kl_weight=2.0 has no part in .*: there are no logits; use vector_weight"),
        ({"mlm_probability": 0.5}, "mlm_probability=0.5 has no part in .*: there are no masked words; leave it out"),
        ({"vector_weight": 0.0, "hidden_weight": 0.0, "embedding_weight": 0.0}, "are all 0, so nothing would be lear"),
    ],
)
def test_settings_without_sense_are_refused(make_sparse_trainer, settings, message):
    with pytest.raises(ValueError, match=message):
        make_sparse_trainer(**settings)


def test_a_model_of_the_other_trainer_is_refused(make_sparse_trainer, make_trainer, tmp_path):
    dense = load_embedding_model(make_sentence_folder(tmp_path / "dense"))
    with pytest.raises(ValueError, match="model is a EmbeddingModel, SparseDistilTrainer takes a SparseModel; Embedd"):
        make_sparse_trainer(dense)
    sparse = load_sparse_model(make_sparse_folder(tmp_path / "sparse"))
    with pytest.raises(ValueError, match="model is a SparseModel, EmbeddingDistilTrainer takes a EmbeddingModel"):
        distilling_embeddings(make_trainer, sparse)


# By the command


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("\n".join(" ".join(f"w{5 + (7 * row + word) % 80}" for word in range(9)) for row in range(200)))
    return str(file)


def words_of(folder, text, output, **settings):
    named = {"teacher": folder, "train_data": text, "output_dir": output, "per_device_train_batch_size": 8}
    named |= {"student": "macs=0.5", "width_multiple": 1, "max_steps": 3, "use_cpu": True} | settings
    return ["distill", *(word for name, value in named.items() for word in (f"--{name}", str(value)))]


@each("has_router", [False, True])
def test_a_plan_is_what_is_distilled(tmp_path, text, capsys, has_router):
    folder = make_sparse_folder(tmp_path / "model", has_router=has_router)
    assert main(["plan", "--teacher", str(folder), "--student", "macs=0.5", "--width_multiple", "1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main(words_of(folder, text, tmp_path / "run", save_steps=2)) == 0
    assert "SparseEncoder(" in capsys.readouterr().out
    facts = json.loads((tmp_path / "run" / "student" / "facts.json").read_text())
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for side, planned in {"teacher": "teacher", "student": "padded"}.items():
        names = ("architecture", "plan", "num_parameters", "encoder_macs", "size_bytes")
        assert {name: facts[side][name] for name in names} == {name: plan[planned][name] for name in names}
    assert {"cosine", "neighbours_in_index", "active_dims"} <= results["models"][1].keys()
    assert results["models"][0]["active_dims"] > 0
    assert main(["verify", str(tmp_path / "run" / "student")]) == 0
    for place, message in {
        "run": "is a sparse encoder, which has one form alone: copy",
        "run/checkpoint-2": "resume the",
    }.items():
        capsys.readouterr()
        assert main(["export", str(tmp_path / place), "--allow_partial", "--output", str(tmp_path / "again")]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.distributed
def test_two_ranks_distil_as_one(tmp_path, text, as_ranks):
    folder, results = make_sparse_folder(tmp_path / "model"), []
    for name, of_rank in (("one", 8), ("two", 4)):
        config, output = tmp_path / f"{name}.json", tmp_path / name
        settings = {"teacher": str(folder), "train_data": text, "output_dir": str(output), "learning_rate": 1e-3}
        settings |= {"student": "macs=0.5", "max_steps": 3, "use_cpu": True, "per_device_train_batch_size": of_rank}
        config.write_text(json.dumps(settings | {"save_strategy": "no"}))
        if name == "one":
            assert main(["distill", str(config)]) == 0
        else:
            done = as_ranks(Path(__file__).parents[1] / "support" / "task_ranks.py", config)
            assert done.returncode == 0, done.stderr[-2000:]
        results.append(json.loads((output / "results.json").read_text()))
    assert results[1]["evaluation"] == pytest.approx(results[0]["evaluation"], rel=1e-3)
    assert results[1]["models"][0]["active_dims"] == results[0]["models"][0]["active_dims"]


def test_a_family_of_sparse_encoders(tmp_path, text):
    words = words_of(
        make_sparse_folder(tmp_path / "model"), text, tmp_path / "run", student='["macs=0.5", "macs=0.3"]'
    )
    assert main(words) == 0
    members = sorted(tmp_path.glob("run/*/student"))
    assert len(members) == 2
    for member in members:
        assert load_sparse_model(member).dimension == VOCAB_SIZE


def test_what_a_sparse_encoder_has_no_part_in_is_refused_by_name(tmp_path, text, capsys):
    folder, other = make_sparse_folder(tmp_path / "model"), make_sentence_folder(tmp_path / "dense")
    assert main(words_of(folder, text, tmp_path / "run")) == 0
    student, output = str(tmp_path / "run" / "student"), str(tmp_path / "else")
    of_vectors, of_method = (
        "sparse encoder, whose vectors have a channel",
        "a sparse encoder is distilled by method=sparse",
    )
    for words, message in {
        ("trim", student, "--text", text, "--vocabulary", "keep=50", "--output", output): of_vectors,
        ("deploy", student, "--to", "onnx"): "format='sentence-transformers sparse', which no other runtime reads",
        ("evaluate", student, "--task", "embedding", "--eval_data", text): of_method,
        ("cascade", "--model", student, "--queries", text, "--documents", text): of_method,
        ("export", student, "--output", output): "is a sparse encoder, which has one form alone: copy",
        (*words_of(folder, text, output, vocabulary="keep=50"),): "vocabulary='keep=50' has no place with method='sp",
        (*words_of(folder, text, output, method="embedding"),): of_method,
        (*words_of(other, text, output, method="sparse"),): "expected Transformer and SpladePooling, alone",
        ("plan", "--teacher", str(folder), "--student", "macs=0.5", "--num_tokens", "1e6"): "predicts none; leave it",
    }.items():
        assert message in error_of(capsys, *words), words
