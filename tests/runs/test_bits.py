"""Embedding models of bits: trained on texts, exported for sentence-transformers, checked, refused."""

import json
import re
import shutil

import pytest
import torch
from commands import error_of
from datasets import Dataset
from rows import each
from safetensors.torch import load_file
from tiny_embeddings import make_sentence_folder
from tiny_files import change_json, own_cache
from tiny_models import make_teacher, randomized, tiny_config
from tiny_multi_vector import make_multi_vector_folder
from tiny_sparse import make_sparse_folder
from transformers import BertModel, DistilBertConfig, DistilBertModel

from homodistil_hf import multiply_bits, verify_export
from homodistil_hf.cli import main
from homodistil_hf.distillation.losses import hidden_error, vector_error
from homodistil_hf.embedding.folder import VECTOR_TOLERANCE, read_embedding_facts
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.export.facts import file_facts
from homodistil_hf.methods.binarization.binarizing import calibrate, to_binary
from homodistil_hf.methods.binarization.stages import BinarizationArguments, BinarizationTrainer
from homodistil_hf.models.architectures.modeling_binarybert import BinaryBertModel
from homodistil_hf.runs.bit_embeddings import fitted_map

TEXTS = ["w5 w9 w7", "w30 w31 w32 w33 w34 w35", "w8"]


class Killed(Exception):
    pass


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """A float model with a Dense, texts, a whole chain of 8 and 4 bits, and its words in a folder of its own."""
    folder = tmp_path_factory.mktemp("bits")
    make_sentence_folder(folder / "float", dense=24)
    generator = torch.Generator().manual_seed(0)
    lines = [" ".join(f"w{n}" for n in torch.randint(5, 90, (8,), generator=generator).tolist()) for _ in range(96)]
    Dataset.from_dict({"text": lines, "label": [0] * 96}).to_parquet(folder / "texts.parquet")
    values = {"model": folder / "float", "train_data": folder / "texts.parquet", "stages": "8 4"}
    # bfloat16: a model that is trained has autocast around its forward, one that is loaded hasn't
    values |= {"max_train_steps": 4, "batch_size": 16, "text_columns": "text", "dtype": "bfloat16"}

    def words(**changes):
        given = {name: value for name, value in (values | changes).items() if value is not None}
        return ["distill", "--method", "bit", *(w for k, v in given.items() for w in (f"--{k}", *str(v).split()))]

    with pytest.MonkeyPatch.context() as patch:
        own_cache(patch, folder / "cache")
        assert main(words(output_dir=folder / "run")) == 0
        yield folder, words


@pytest.fixture
def export(chain, tmp_path):
    return shutil.copytree(chain[0] / "run" / "model", tmp_path / "model")


@pytest.mark.slow
def test_a_chain_ends_in_a_folder_for_sentence_transformers(chain):
    folder, _ = chain
    model = folder / "run" / "model"
    report = verify_export(model)
    assert report.problems == ()
    assert report.max_relative_difference <= VECTOR_TOLERANCE
    results = json.loads((folder / "run" / "results.json").read_text())
    assert results["float"]["cosine"] == pytest.approx(1)
    assert [results[f"stage-{number}"]["activation_bits"] for number in (1, 2)] == [8, 4]
    assert 0.5 < results["stage-2"]["cosine"] < 1
    card = (model / "README.md").read_text()
    assert "weights of 1 bit and activations of 4" in card
    assert "trust_remote_code=True" in card
    assert "## Settings\n\nThese differ from their defaults" in card
    facts = read_embedding_facts(model)
    assert facts["evaluation"]["cosine"] == results["stage-2"]["cosine"]
    # nothing but bits of matrices and tables, and floats
    stored = load_file(model / "model.safetensors")
    assert {str(one.dtype) for one in stored.values()} == {"torch.uint8", "torch.float32"}
    assert not any(name.startswith("pooler") for name in stored)
    assert facts["student"]["size_bytes"] == sum(one.numel() * one.element_size() for one in stored.values())
    assert results["size_bytes"] == sum(file.stat().st_size for file in model.rglob("model.safetensors"))


@pytest.mark.slow
def test_what_was_trained_is_what_is_loaded(chain, tmp_path, monkeypatch):
    """The last stage's float weights behind bits, the packed model, products of bits, and the library's vectors."""
    sentence_transformers = pytest.importorskip("sentence_transformers")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder, _ = chain
    packed = load_embedding_model(folder / "run" / "model")
    stage = BinaryBertModel.from_pretrained(folder / "run" / "stage-2" / "model", dtype="float32").eval()
    inputs = packed.tokenize(TEXTS)
    with torch.no_grad():
        wanted = packed.vectors(stage(**inputs).last_hidden_state, inputs["attention_mask"])
    found = packed.encode(TEXTS)
    assert torch.allclose(found, wanted, atol=1e-5)
    assert [layer.activation for layer in packed.dense] == ["Tanh"]  # the map is part of the float model's Dense
    whole = sentence_transformers.SentenceTransformer(str(folder / "run" / "model"), trust_remote_code=True)
    assert torch.allclose(whole.encode(TEXTS, convert_to_tensor=True).cpu(), found, atol=1e-6)
    if multiply_bits(packed.encoder):
        assert packed.encode(TEXTS).equal(found)
        assert multiply_bits(whole)


@pytest.mark.slow
def test_a_chain_that_was_killed_goes_on(chain, tmp_path, monkeypatch):
    folder, words = chain
    step, seen = BinarizationTrainer.training_step, []

    def killed(self, *args, **kwargs):
        seen.append(self.state.global_step)
        if len(seen) == 4 + 3:
            raise Killed
        return step(self, *args, **kwargs)

    monkeypatch.setattr("homodistil_hf.methods.binarization.stages._SAVE_STEPS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(BinarizationTrainer, "training_step", killed)
        with pytest.raises(Killed):
            main(words(output_dir=tmp_path / "run"))
    assert main(words(output_dir=tmp_path / "run", resume="true")) == 0
    results = [json.loads((one / "run" / "results.json").read_text()) for one in (folder, tmp_path)]
    assert results[0]["stage-1"] == results[1]["stage-1"]
    assert results[0]["stage-2"] == results[1]["stage-2"]
    files = [one / "run" / "model" / "model.safetensors" for one in (folder, tmp_path)]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.slow
def test_the_student_evaluates_and_exports_as_others_do(chain, export, tmp_path, capsys):
    folder, words = chain
    texts = ["--eval_data", str(folder / "texts.parquet"), "--teacher", str(folder / "float")]
    assert main(["evaluate", str(export), "--task", "embedding", *texts]) == 0
    assert "cosine to the teacher's vectors" in capsys.readouterr().out
    assert "agreement" in read_embedding_facts(export)["benchmarks"]
    assert main(["export", str(export), "--output", str(tmp_path / "again")]) == 0
    assert verify_export(tmp_path / "again").problems == ()
    capsys.readouterr()
    pair = ["--format", "pair", "--teacher", folder / "float", "--output", tmp_path / "pair"]
    assert "an encoder of bits brings its own code, which no pair has" in error_of(capsys, "export", export, *pair)
    assert "no other runtime reads" in error_of(capsys, "deploy", export, "--to", "onnx")
    new = ["--train_data", folder / "texts.parquet", "--student", "macs=0.5", "--output_dir", tmp_path / "new"]
    told = "it is a model of bits: name the float model that it was made from"
    assert told in error_of(capsys, "distill", "--teacher", export, *new)
    assert "bits alone can't be trained" in error_of(capsys, *words(model=export, output_dir=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
@each(
    ("damage", "message"),
    [
        (lambda folder: (folder / "modeling_binarybert.py").write_text("raise SystemExit"), "sha256"),
        (lambda folder: (folder / "2_Dense" / "more.py").write_text(""), "found an unexpected file"),
        (lambda folder: change_json(folder / "config.json", auto_map={}), "config.json"),
    ],
)
def test_code_of_others_is_not_run(export, damage, message):
    damage(export)
    report = verify_export(export)
    assert not report.ok
    assert any(message in problem for problem in report.problems)


def test_code_that_the_facts_list_is_not_run_either(export):
    """A person who changes a file can change the facts as well."""
    (export / "modeling_binarybert.py").write_text("raise SystemExit")
    facts = json.loads((export / "facts.json").read_text())
    change_json(export / "facts.json", files=file_facts(export), format=facts["format"])
    (problem,) = verify_export(export).problems
    assert "expected this package's own file" in problem
    change_json(export / "facts.json", format="sentence-transformers")  # whose folders have no code
    assert "it was not run" in verify_export(export).problems[-1]


@pytest.mark.slow
@each(
    ("changes", "message"),
    [
        ({"label_column": "label"}, "label_column='label' has no place with an embedding model"),
        ({"text_columns": "text label"}, "text_columns=.*: an embedding model reads one column; name one"),
        ({"eval_data": "one.txt"}, "eval_data='.*one.txt' has 1 text to compare vectors of; name two or more"),
        ({"text_columns": "words"}, "missing text column .text_column='words'"),
        ({"max_length": 64}, "max_length=64 is over the model's positions=32"),
        ({"model": "sparse"}, "has sparse vectors, and bits are for models with one dense vector a text"),
        ({"model": "multi_vector"}, "has multi vector vectors, and bits are for models with one dense"),
        ({"model": "distilbert"}, "is no BERT, and layers of bits are BERT's"),
        ({"model": "padded"}, "has 2 FFN neurons that are padding"),
    ],
)
def test_what_cant_be_binarized_is_refused_before_it_begins(chain, changes, message, tmp_path, capsys):
    _, words = chain
    if "eval_data" in changes:
        (tmp_path / "one.txt").write_text("w5 w6 w7 w8 w9 w10 w11 w12")
        changes = {"eval_data": tmp_path / "one.txt", "text_columns": None}
    if "model" in changes:
        changes = {"model": MODELS[changes["model"]](tmp_path / "other")}
    told = error_of(capsys, *words(output_dir=tmp_path / "run", **changes))
    assert re.search(message, told), told
    assert not (tmp_path / "run" / "settings.json").exists()


@pytest.mark.slow
def test_a_length_above_the_models_own_is_told(chain, tmp_path, capsys, caplog):
    _, words = chain
    error_of(capsys, *words(output_dir=tmp_path / "run", max_length=20, text_columns="words"))
    assert "max_length=20: rows have 12 tokens at most, as the model's settings have a max_seq_length" in caplog.text


def padded():
    encoder = randomized(BertModel(tiny_config()))
    with torch.no_grad():
        encoder.encoder.layer[0].intermediate.dense.weight[3:5] = 0
    return encoder


def distilbert():
    shape = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "max_position_embeddings": 32}
    return DistilBertModel(DistilBertConfig(vocab_size=tiny_config().vocab_size, **shape))


MODELS = {
    "sparse": make_sparse_folder,
    "multi_vector": make_multi_vector_folder,
    "distilbert": lambda folder: make_sentence_folder(folder, encoder=distilbert()),
    "padded": lambda folder: make_sentence_folder(folder, encoder=padded()),
}


def test_a_map_behind_the_bits_is_that_of_least_squares(tmp_path):
    model = load_embedding_model(make_sentence_folder(tmp_path / "float"))
    torch.manual_seed(0)
    batches = [{"input_ids": torch.randint(5, 90, (64, 9)), "attention_mask": torch.ones(64, 9)} for _ in range(8)]
    unchanged = fitted_map(model.encoder, model, batches)
    assert torch.allclose(unchanged.weight, torch.eye(32), atol=1e-6)
    student = to_binary(model.encoder, activation_bits=8).eval()
    calibrate(student, batches[0])
    found = fitted_map(student, model, batches).weight
    with torch.no_grad():
        own, aims = (
            torch.cat([one(**batch).last_hidden_state.mean(1) for batch in batches])
            for one in (student, model.encoder)
        )
    wanted = torch.linalg.lstsq(own.double(), aims.double()).solution.T
    errors = [float((own @ weight.T - aims).square().sum()) for weight in (wanted.float(), found, torch.eye(32))]
    assert errors[0] <= errors[1] < 1.05 * errors[0] < 0.9 * errors[2]


def trainer_of(tmp_path, student, teacher, **how):
    arguments = BinarizationArguments(str(tmp_path / "out"), report_to="none", use_cpu=True)
    return BinarizationTrainer(student, arguments, teacher_model=teacher, **how)


def test_the_loss_is_of_vectors_and_states(tmp_path):
    model = load_embedding_model(make_sentence_folder(tmp_path / "float", dense=24))
    teacher = model.encoder
    student = to_binary(teacher, activation_bits=8).eval()
    trainer = trainer_of(tmp_path, student, teacher, vectors_of=model.vectors)
    batch = dict(model.tokenize(TEXTS))
    calibrate(student, batch)
    with torch.no_grad():
        loss = float(trainer.compute_loss(student, batch))
        states = [one(**batch, output_hidden_states=True).hidden_states for one in (teacher, student)]
        mask = batch["attention_mask"]
        theirs, own = (model.vectors(of_layers[-1], mask) for of_layers in states)
        wanted = vector_error(own, theirs) / 3
        wanted += sum(hidden_error(*pair, mask) for pair in zip(*states, strict=True)) / mask.sum()
    assert loss == pytest.approx(float(wanted), rel=1e-5)
    assert loss > 0


def test_encoders_need_vectors_and_heads_none(tmp_path):
    encoder, classifier = randomized(BertModel(tiny_config())), make_teacher("sequence_classification")
    with pytest.raises(ValueError, match="vectors_of=None with model=BinaryBertModel: an encoder without a head"):
        trainer_of(tmp_path, to_binary(encoder, activation_bits=8), encoder)
    student = to_binary(classifier, activation_bits=8)
    with pytest.raises(ValueError, match="with model=BinaryBertForSequenceClassification.* leave it out"):
        trainer_of(tmp_path, student, classifier, vectors_of=lambda states, mask: states[:, 0])
