"""Runs of multi-vector encoders: they start at 0, end at the plan, stay in the teacher's index, and are exported."""

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import error_of
from datasets import Dataset
from rows import each
from run_traces import logs_of
from tiny_architectures import tiny_architecture_config
from tiny_embeddings import assert_neurons_are_scored_by_gradients, distilling_embeddings, make_sentence_folder
from tiny_models import randomized
from tiny_multi_vector import ASYMMETRIC, distilling_token_vectors, make_multi_vector_folder

from homodistil_hf import verify_export
from homodistil_hf.cli import main
from homodistil_hf.embedding.metrics import mean_maxsim, nearest_alike
from homodistil_hf.embedding.model import ACTIVATIONS, load_embedding_model
from homodistil_hf.embedding.multi_vector import load_multi_vector_model, num_vectors
from homodistil_hf.embedding.texts import directions
from homodistil_hf.models.architectures import ARCHITECTURES

pytestmark = pytest.mark.slow

TEXTS = ["w7 w8 w10", "w10 w11", ""]


@pytest.fixture
def make_token_trainer(make_trainer, tmp_path):
    def make(model=None, **settings):
        defaults = {"pruning_end_fraction": 0.0, "learning_rate": 1e-2}
        return distilling_token_vectors(make_trainer, model or tmp_path / "teacher", **defaults | settings)

    return make


def vectors_of(trainer, inputs):
    """A student's vectors in training, by the formula: the map on each kept token, then the teacher's layers."""
    states = trainer.model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    kept = states[inputs["labels"] != -100] @ trainer.distillation.dense.weight.T
    for layer in trainer.embedding_model.dense:
        kept = ACTIVATIONS[layer.activation]()(kept @ layer.linear.weight.T + (layer.linear.bias or 0))
    return kept / kept.norm(dim=1, keepdim=True)


@each(
    "how",
    [
        {},
        {"dense": ()},
        {"dense": (24, 16), "normalizes": False},
        {"padding_side": "left", "skiplist_words": ["w7"]},
        ASYMMETRIC,
    ],
)
def test_an_unpruned_student_is_its_teacher(make_token_trainer, tmp_path, how):
    folder = make_multi_vector_folder(tmp_path / "model", **how)
    trainer = make_token_trainer(folder, student="macs=1.0", max_steps=1)
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(0.0, abs=1e-12)
    measured = {name: found[f"eval_{name}"] for name in ("cosine", "neighbours", "neighbours_in_index", "spread")}
    assert measured == pytest.approx(dict.fromkeys(measured, 1.0))
    assert trainer.evaluate_teacher() == {"loss": 0.0} | dict.fromkeys(measured, 1.0)
    trainer.train()
    (terms,) = [entry for entry in logs_of(trainer) if "loss_vector" in entry]
    for name in ("vector", "hidden", "embedding"):
        assert terms[f"loss_{name}"] == pytest.approx(0.0, abs=1e-9), name


def held_out_batch(trainer):
    return trainer.data_collator([trainer.eval_dataset[row] for row in range(len(trainer.eval_dataset))])


def test_vectors_are_learnt_and_measured(make_token_trainer, tmp_path):
    folder = make_multi_vector_folder(tmp_path / "model", skiplist_words=[f"w{number}" for number in range(7, 40)])
    trainer = make_token_trainer(folder, max_steps=60, eval_strategy="steps", eval_steps=30)
    trainer.train()
    assert trainer.kept == trainer.plan
    steps = [entry for entry in logs_of(trainer) if "loss_vector" in entry]
    for name in ("vector", "hidden", "embedding"):
        first, last = (sum(entry[f"loss_{name}"] for entry in part) for part in (steps[:5], steps[-5:]))
        assert 0 < last < first, name
    found, batch, whole = trainer.evaluate(), held_out_batch(trainer), trainer.embedding_model
    with torch.no_grad():
        own, theirs = vectors_of(trainer, batch), whole.of_inputs(batch)
    counts = num_vectors(batch["labels"])
    assert 0 < len(own) == sum(counts) < int(batch["attention_mask"].sum())
    # of length 1: ‖z_s − z_t‖² = 2 − 2·cos
    cosine = float((own * theirs).sum(1).mean())
    assert found["eval_cosine"] == pytest.approx(cosine, rel=1e-4)
    assert found["eval_loss"] == pytest.approx(2 - 2 * cosine, rel=1e-4)
    expected = nearest_alike(own.split(counts), theirs.split(counts), mean_maxsim)
    assert {name: found[f"eval_{name}"] for name in expected} == pytest.approx(expected)
    # what has no vector is outside of the loss, whatever it is worth
    terms = []
    for value in (0.0, 1e3):
        inputs = dict(batch)
        forward = trainer.distillation.teacher.exact.forward
        with torch.no_grad():
            states = forward(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
            states[inputs["labels"] == -100] = value
            terms.append(whole.behind(whole.pool(states, inputs)))
    assert torch.equal(*terms)


def test_the_loss_is_a_mean_over_vectors_with_its_gradients(make_token_trainer):
    trainer = make_token_trainer(max_steps=1, hidden_weight=0.0, embedding_weight=0.0, vector_weight=2.0)
    trainer.train()
    trainer.model.zero_grad()
    batch = held_out_batch(trainer)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    found = {name: one.grad.clone() for name, one in trainer.model.named_parameters() if one.grad is not None}
    trainer.model.zero_grad()
    with torch.no_grad():
        theirs = trainer.embedding_model.of_inputs(batch)
    expected = 2.0 * (vectors_of(trainer, batch) - theirs).square().sum(1).mean()
    expected.backward()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert any(name.endswith("dense.weight") and "projections" in name for name in found)
    for name, parameter in trainer.model.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, rtol=1e-3, atol=1e-6), name


def test_units_are_scored_by_how_far_vectors_move(make_token_trainer):
    trainer = make_token_trainer(num_scoring_batches=1)
    trainer.start_student()
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.zero_grad()
    trainer.model.eval()
    vectors = vectors_of(trainer, batch)
    numbers = batch["labels"][batch["labels"] != -100]
    ((vectors * directions(numbers, vectors.shape[1])).sum() / len(vectors)).backward()
    assert_neurons_are_scored_by_gradients(trainer)


@pytest.mark.parametrize("model_type", ["roberta", "modernbert", "qwen3"])
def test_other_architectures_can_be_narrowed(make_token_trainer, model_type, tmp_path):
    torch.manual_seed(1)
    architecture = ARCHITECTURES[model_type]
    encoder = randomized(architecture.encoder.stock(tiny_architecture_config(architecture)))
    trainer = make_token_trainer(make_multi_vector_folder(tmp_path / "model", encoder=encoder), max_steps=2)
    trainer.train()
    exported = load_multi_vector_model(trainer.export(tmp_path / "student"))
    assert type(exported.encoder) is architecture.encoder.stock
    assert_same_vectors(trainer, exported)


def assert_same_vectors(trainer, exported):
    trainer.model.eval()
    with torch.no_grad():
        inputs = dict(exported.tokenize(TEXTS))
        states = trainer.model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
        own = trainer.distillation.model.pool(states, inputs)
        expected = trainer.distillation.mapped_and_own(own)[0]
    assert torch.allclose(torch.cat(exported.encode_each(TEXTS)), expected, atol=1e-5)


LOAD_ELSEWHERE = """
import json, sys
import torch
from sentence_transformers import MultiVectorEncoder
model, routes = MultiVectorEncoder(sys.argv[1], device="cpu"), json.loads(sys.argv[3])
found = {route: torch.cat(getattr(model, "encode_" + route)(json.loads(sys.argv[2]))) for route in routes}
differences = [float((found[route] - torch.tensor(routes[route])).abs().max()) for route in routes]
print(json.dumps([differences, [type(module).__name__ for module in model.children()]]))
"""


@each("how", [ASYMMETRIC, {"dense": ()}, {"dense": (24, 16), "normalizes": False, "prompts": {"query": "w5 "}}])
def test_sentence_transformers_reads_an_export(make_token_trainer, forked_python, tmp_path, how):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    folder = make_multi_vector_folder(tmp_path / "model", **how)
    trainer = make_token_trainer(folder, student="16-2x4-32", width_multiple=4, max_steps=3)
    trainer.train()
    export = trainer.export(tmp_path / "student")
    report = verify_export(export)
    assert report.problems == ()
    assert report.max_relative_difference < 1e-5
    exported = load_multi_vector_model(export)
    assert_same_vectors(trainer, exported)
    routes = {
        route: torch.cat(exported.encode_each(TEXTS, prompt_name=route)).tolist() for route in ("query", "document")
    }
    command = [sys.executable, "-c", LOAD_ELSEWHERE, str(export), json.dumps(TEXTS), json.dumps(routes)]
    differences, kinds = json.loads(forked_python.run(command, check=True, cwd=tmp_path).stdout)
    assert max(differences) < 1e-6
    ends = ["MultiVectorMask", *["Normalize"] * how.get("normalizes", True)]
    assert kinds == ["Transformer", "Dense", *ends]  # the map and linear layers are one
    card, facts = (export / "README.md").read_text(), json.loads((export / "facts.json").read_text())
    assert f"→ a vector of {exported.dimension} channels for each token." in card
    assert "MultiVectorEncoder(name)" in card
    assert "an index of the teacher's can stay" in card
    assert "Queries are" not in card
    assert set(facts["probe"]["vectors"]) == {"query", "document"}
    assert str(tmp_path) not in json.dumps(facts) + card


def test_verify_finds_what_was_changed(make_token_trainer, tmp_path):
    trainer = make_token_trainer(max_steps=1)
    trainer.train()
    with pytest.raises(ValueError, match="format='compact': sentence-transformers reads stock modules alone"):
        trainer.export(tmp_path / "student", "compact")
    export = trainer.export(tmp_path / "student")
    for name, values in {
        "2_MultiVectorMask/config.json": {"skiplist_words": ["w7"]},
        "sentence_bert_config.json": {"query_length": 3},
    }.items():
        before = (export / name).read_text()
        (export / name).write_text(json.dumps(values))
        assert any(name in problem for problem in verify_export(export).problems)
        (export / name).write_text(before)
    # of facts that name other vectors
    facts = json.loads((export / "facts.json").read_text())
    facts["probe"]["vectors"]["query"][1][0] += 0.5
    (export / "facts.json").write_text(json.dumps(facts))
    assert any("query vectors" in problem for problem in verify_export(export).problems)


def test_a_plain_student_and_one_of_fewer_layers(make_token_trainer, tmp_path):
    for name, settings in {
        "plain": {"plain": True, "student": "macs=0.8"},
        "shallow": {"student": "macs=0.25,layers=1", "width_multiple": 1},
    }.items():
        trainer = make_token_trainer(max_steps=1, **settings)
        trainer.train()
        exported = load_multi_vector_model(trainer.export(tmp_path / name))
        assert exported.encoder.config.num_hidden_layers == (1 if name == "shallow" else 2)
        assert_same_vectors(trainer, exported)


@each(
    ("settings", "message"),
    [
        ({"output": 7}, "output=7 has no part in .*: token vectors stay in the teacher's space; leave it out"),
        ({"kl_weight": 2.0}, "kl_weight=2.0 has no part in .*: there are no logits; use vector_weight"),
        ({"vector_weight": 0.0, "hidden_weight": 0.0, "embedding_weight": 0.0}, "are all 0, so nothing would be lear"),
    ],
)
def test_settings_without_sense_are_refused(make_token_trainer, settings, message):
    with pytest.raises(ValueError, match=message):
        make_token_trainer(**settings)


def test_a_model_of_another_trainer_is_refused(make_token_trainer, make_trainer, tmp_path):
    dense = load_embedding_model(make_sentence_folder(tmp_path / "dense"))
    with pytest.raises(ValueError, match="is a EmbeddingModel, MultiVectorDistilTrainer takes a MultiVectorModel; E"):
        make_token_trainer(dense)
    tokens = load_multi_vector_model(make_multi_vector_folder(tmp_path / "tokens"))
    with pytest.raises(ValueError, match="model is a MultiVectorModel, EmbeddingDistilTrainer takes a EmbeddingModel"):
        distilling_embeddings(make_trainer, tokens)


def test_raw_texts_become_queries_and_documents(make_token_trainer, tmp_path):
    folder = make_multi_vector_folder(tmp_path / "model", **ASYMMETRIC)
    texts = Dataset.from_dict({"text": [f"w{number} w{number + 1} w10 w11" for number in range(10, 50)]})
    trainer = make_token_trainer(folder, train_dataset=texts, eval_dataset=texts.select(range(16)), max_steps=2)
    rows = trainer.train_dataset
    assert set(rows.column_names) == {"input_ids", "attention_mask", "labels"}
    assert {ids[1] for ids in rows["input_ids"]} == {5, 6}
    assert any(0 in mask for mask in rows["attention_mask"])  # masked words that queries are filled up with
    trainer.train()
    assert trainer.evaluate()["eval_cosine"] > 0


# By the command


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    words = torch.randint(5, 90, (200, 9), generator=torch.Generator().manual_seed(0)).tolist()
    file.write_text("\n".join(" ".join(f"w{word}" for word in row) for row in words))
    return str(file)


def words_of(folder, text, output, **settings):
    named = {"teacher": folder, "train_data": text, "output_dir": output, "per_device_train_batch_size": 8}
    named |= {"student": "macs=0.5", "width_multiple": 1, "max_steps": 3, "use_cpu": True} | settings
    return ["distill", *(word for name, value in named.items() for word in (f"--{name}", str(value)))]


@each("how", [{}, ASYMMETRIC])
def test_a_plan_is_what_is_distilled(tmp_path, text, capsys, how):
    folder = make_multi_vector_folder(tmp_path / "model", **how)
    assert main(["plan", "--teacher", str(folder), "--student", "macs=0.5", "--width_multiple", "1", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert main(words_of(folder, text, tmp_path / "run", save_steps=2)) == 0
    printed = capsys.readouterr().out
    assert "is a multi-vector encoder of 16 channels" in printed
    assert "MultiVectorEncoder(" in printed
    facts = json.loads((tmp_path / "run" / "student" / "facts.json").read_text())
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    for side, planned in {"teacher": "teacher", "student": "padded"}.items():
        names = ("architecture", "plan", "num_encoder_parameters", "encoder_macs")
        assert {name: facts[side][name] for name in names} == {name: plan[planned][name] for name in names}
    assert {"cosine", "neighbours", "neighbours_in_index"} <= results["models"][1].keys()
    assert main(["verify", str(tmp_path / "run" / "student")]) == 0
    for place, message in {
        "run": "is a multi-vector encoder, which has one form alone: copy",
        "run/checkpoint-2": "resume the",
    }.items():
        capsys.readouterr()
        assert main(["export", str(tmp_path / place), "--allow_partial", "--output", str(tmp_path / "again")]) == 2
        assert message in capsys.readouterr().err


def test_what_is_distilled_can_be_named_a_query(tmp_path, text, capsys):
    folder = make_multi_vector_folder(tmp_path / "model", **ASYMMETRIC)
    assert main(words_of(folder, text, tmp_path / "run", train_prompts="query")) == 0
    assert "train_prompts has 'title', but the teacher's prompts are query, document" in error_of(
        capsys, *words_of(folder, text, tmp_path / "else", train_prompts="title")
    )


def test_a_plan_refuses_what_distill_refuses(tmp_path, text, capsys):
    folder = make_multi_vector_folder(tmp_path / "model", query_expansion={"strategy": "min"})
    message = f"teacher='{folder}' has query_expansion={{'strategy': 'min'}}; expected strategy"
    assert message in error_of(capsys, "plan", "--teacher", str(folder), "--student", "macs=0.5")
    assert message in error_of(capsys, *words_of(folder, text, tmp_path / "run"))


@pytest.mark.distributed
def test_two_ranks_distil_as_one(tmp_path, text, as_ranks):
    folder, results = make_multi_vector_folder(tmp_path / "model", **ASYMMETRIC), []
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


def test_a_family_of_multi_vector_encoders(tmp_path, text):
    folder = make_multi_vector_folder(tmp_path / "model")
    assert main(words_of(folder, text, tmp_path / "run", student='["macs=0.5", "macs=0.3"]')) == 0
    members = sorted(tmp_path.glob("run/*/student"))
    assert len(members) == 2
    for member in members:
        assert load_multi_vector_model(member).dimension == 16


def test_what_a_multi_vector_encoder_has_no_part_in_is_refused_by_name(tmp_path, text, capsys):
    folder, other = make_multi_vector_folder(tmp_path / "model"), make_sentence_folder(tmp_path / "dense")
    assert main(words_of(folder, text, tmp_path / "run")) == 0
    student, output = str(tmp_path / "run" / "student"), str(tmp_path / "else")
    of_method = "a multi-vector encoder by method=multi_vector"
    for words, message in {
        ("trim", student, "--text", text, "--vocabulary", "keep=50", "--output", output): "is a multi-vector encoder",
        ("deploy", student, "--to", "onnx"): "format='sentence-transformers multi-vector', which no other runtime rea",
        ("evaluate", student, "--task", "embedding", "--eval_data", text): of_method,
        ("cascade", "--model", student, "--queries", text, "--documents", text): of_method,
        ("export", student, "--output", output): "is a multi-vector encoder, which has one form alone: copy",
        (*words_of(folder, text, output, vocabulary="keep=50"),): "vocabulary='keep=50' has no place with method='mu",
        (*words_of(folder, text, output, method="embedding"),): of_method,
        (*words_of(other, text, output, method="multi_vector"),): "expected Transformer, any number of Dense, MultiV",
        ("plan", "--teacher", str(folder), "--student", "macs=0.5", "--num_tokens", "1e6"): "predicts none; leave it",
    }.items():
        assert message in error_of(capsys, *words), words
