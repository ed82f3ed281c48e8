"""Runs of rerankers: they start at 0, learn their teacher's scores, resume, and load in sentence-transformers."""

import json
import logging
import sys

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset
from huggingface_hub.errors import LocalEntryNotFoundError
from rows import each
from run_traces import logs_of
from tiny_architectures import OTHERS, tiny_architecture_config
from tiny_embeddings import assert_neurons_are_scored_by_gradients, distilling_a_reranker, make_pairs, make_reranker
from tiny_models import randomized, tiny_config, tiny_tokenizer
from transformers import AutoModelForSequenceClassification, BertForSequenceClassification

from homodistil_hf.embedding.metrics import ranking_scores
from homodistil_hf.embedding.reranker import PairReader, RerankerDistilTrainer, pairs_in


@pytest.fixture
def make_reranking_trainer(make_trainer, tmp_path):
    def make(folder=tmp_path / "teacher", **settings):
        defaults = {"pruning_end_fraction": 0.0, "learning_rate": 1e-2}
        return distilling_a_reranker(make_trainer, folder, **defaults | settings)

    return make


def test_an_unpruned_student_is_its_teacher(make_reranking_trainer):
    trainer = make_reranking_trainer(student="macs=1.0", max_steps=1)
    found = trainer.evaluate()
    assert found["eval_loss"] == pytest.approx(0.0, abs=1e-10)
    assert found["eval_correlation"] == pytest.approx(1.0)
    trainer.train()
    (terms,) = [entry for entry in logs_of(trainer) if "loss_kl" in entry]
    assert terms["loss_kl"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.slow
def test_scores_are_learnt(make_reranking_trainer):
    trainer = make_reranking_trainer(max_steps=60)
    trainer.train()
    assert trainer.kept == trainer.plan
    steps = [entry for entry in logs_of(trainer) if "loss_kl" in entry]
    first, last = (sum(entry["loss_kl"] for entry in part) for part in (steps[:5], steps[-5:]))
    assert 0 < last < first
    assert {"loss", "correlation"} <= {name.removeprefix("eval_") for name in trainer.evaluate()}


def test_units_are_scored_by_how_far_scores_move(make_reranking_trainer):
    trainer = make_reranking_trainer(num_scoring_batches=1)
    trainer.start_student()
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.zero_grad()
    trainer.model.eval()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    logits = trainer.model(**inputs)["logits"]
    ((logits * batch["labels"]).sum() / len(logits)).backward()
    assert_neurons_are_scored_by_gradients(trainer)


LOAD_ELSEWHERE = """
import json, sys
from sentence_transformers import CrossEncoder
model = CrossEncoder(sys.argv[1])
pairs = [("w7 w8", "w9"), ("w10", "w11 w12 w13")]
print(json.dumps({"scores": model.predict(pairs).tolist(), "activation": type(model.activation_fn).__name__,
    "own": "homodistil_hf" in sys.modules}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["config.json", "config_sentence_transformers.json", None])
def test_cross_encoders_read_an_export(make_reranking_trainer, forked_python, tmp_path, place):
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    folder = make_reranker(tmp_path / "teacher")
    if place is not None:
        file = folder / place
        values = json.loads(file.read_text()) if file.is_file() else {}
        told = {"activation_fn": "torch.nn.modules.linear.Identity"}
        file.write_text(json.dumps(values | ({"sentence_transformers": told} if place == "config.json" else told)))
    trainer = make_reranking_trainer(folder, max_steps=2)
    trainer.train()
    command = [sys.executable, "-c", LOAD_ELSEWHERE, str(trainer.export(tmp_path / "student"))]
    found = json.loads(forked_python.run(command, check=True, cwd=tmp_path).stdout)
    inputs = tiny_tokenizer()(["w7 w8", "w10"], ["w9", "w11 w12 w13"], padding=True, return_tensors="pt")
    trainer.model.eval()
    with torch.no_grad():
        logits = trainer.model(**inputs)["logits"].flatten()
    expected = logits.sigmoid() if place is None else logits
    assert torch.allclose(torch.tensor(found["scores"]), expected, atol=1e-4)
    assert found["activation"] == ("Sigmoid" if place is None else "Identity")
    assert not found["own"]


@pytest.mark.slow
def test_the_librarys_own_file_names_the_activation_and_prompts_are_told(make_reranking_trainer, tmp_path, caplog):
    folder = make_reranker(tmp_path / "teacher", sentence_transformers={"activation_fn": "torch.nn.Identity"})
    own = {"activation_fn": "torch.nn.Sigmoid", "prompts": {"query": "w5 "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(own))
    trainer = make_reranking_trainer(folder)
    assert trainer.model.config.sentence_transformers == {"activation_fn": "torch.nn.Sigmoid"}
    assert "prompts" in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize("architecture", OTHERS, ids=[architecture.model_type for architecture in OTHERS])
def test_every_architecture_can_be_narrowed(make_reranking_trainer, architecture, tmp_path):
    head = next((head for head in architecture.heads if head.stock_name.endswith("ForSequenceClassification")), None)
    if head is None:
        pytest.skip("the architecture has no such head")
    torch.manual_seed(1)
    config = tiny_architecture_config(architecture)
    config.num_labels = 1
    model = randomized(head.stock(config))
    model.save_pretrained(tmp_path / "model")
    rows = make_pairs()
    if "token_type_ids" in rows.column_names and not getattr(config, "type_vocab_size", 0) > 1:
        rows = rows.remove_columns("token_type_ids")
    trainer = make_reranking_trainer(tmp_path / "model", max_steps=2, train_dataset=rows, eval_dataset=rows)
    trainer.train()
    assert trainer.kept == trainer.plan


def test_a_tokenizer_is_needed_before_the_first_step(make_reranking_trainer):
    with pytest.raises(ValueError, match="processing_class=None is no tokenizer, so pairs can't be padded"):
        make_reranking_trainer(processing_class=None)


@pytest.mark.slow
@pytest.mark.parametrize("num_labels", [2, 3])
def test_models_of_several_logits_are_refused(make_reranking_trainer, tmp_path, num_labels):
    config = tiny_config(num_labels=num_labels)
    BertForSequenceClassification(config).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=f"of {num_labels} labels; a reranker has one logit a pair"):
        make_reranking_trainer(tmp_path / "model")


@pytest.mark.slow
def test_no_hub_is_asked_for_a_model_in_memory(make_trainer, tmp_path, monkeypatch):
    """It bears the name of a folder that is no more, and its own configuration says which activation it has."""

    def asked(*args, local_files_only=False, **kwargs):
        if not local_files_only:
            pytest.fail("the Hub was asked")
        raise LocalEntryNotFoundError("not in the cache")

    monkeypatch.setattr("homodistil_hf.files.model_files.hf_hub_download", asked)
    for own in (None, {"activation_fn": "torch.nn.modules.linear.Identity"}):
        extra = {} if own is None else {"sentence_transformers": own}
        model = BertForSequenceClassification.from_pretrained(make_reranker(tmp_path / str(own), **extra))
        model.name_or_path = model.config.name_or_path = "runs/gone"
        trainer = make_trainer(
            model=model,
            trainer_class=RerankerDistilTrainer,
            train_dataset=make_pairs(),
            eval_dataset=make_pairs(16, seed=1),
            output_dir=str(tmp_path / f"run {own}"),
        )
        assert getattr(trainer.model.config, "sentence_transformers", None) == own


ROWS = {"query": ["w5", "w5", "w6", "w6"], "passage": ["w7", "w8", "w9", "w10"], "label": [1, 0, 0, 1]}


def reader(folder):
    model = AutoModelForSequenceClassification.from_pretrained(make_reranker(folder))
    return model, PairReader(model.config, tiny_tokenizer(), 16)


def test_a_model_is_graded_by_known_labels_alone(tmp_path):
    model, pairs = reader(tmp_path / "model")
    grade = pairs.grading_of([pairs_in(Dataset.from_dict(ROWS))])
    with torch.no_grad():
        inputs = tiny_tokenizer()(ROWS["query"], ROWS["passage"], return_tensors="pt", padding=True)
        scores = model.eval()(**inputs).logits[:, 0].numpy()
    assert grade(model) == pytest.approx(ranking_scores(scores, np.array(ROWS["label"]), ROWS["query"]))
    more = {"query": ["w7 w7 w7"], "passage": ["w9 w9"], "label": [None]}
    rows = Dataset.from_dict({name: more[name] + values for name, values in ROWS.items()})
    other = Dataset.from_dict({"question": ["w9"], "passage": ["w11"], "score": [0.5]})
    assert pairs.grading_of([pairs_in(rows)])(model) == pytest.approx(grade(model))
    assert pairs.grading_of([pairs_in(rows), pairs_in(other)])(model) != grade(model)


@each("labels", [[1] * 4, [None] * 4])
def test_labels_that_are_all_alike_measure_nothing(tmp_path, caplog, labels):
    rows = Dataset.from_dict(ROWS | {"label": labels})
    with caplog.at_level(logging.WARNING):
        assert reader(tmp_path / "model")[1].grading_of([pairs_in(rows)]) is None
    assert ("train_data: all labels are alike" in caplog.text) == (labels[0] == 1)


def test_pairs_have_two_texts_and_maybe_a_label():
    rows = Dataset.from_dict(ROWS | {"passage": ["w7", "", None, "w10"]})
    with pytest.raises(ValueError, match="train_data has 2 rows without 'passage', the first is row 2; drop them"):
        pairs_in(rows)
    assert pairs_in(Dataset.from_dict(ROWS)).columns.describe() == "texts in 'query' and 'passage', labels in 'label'"
    missing = Dataset.from_dict(ROWS).cast_column("label", ClassLabel(names=["no", "yes"]))
    assert pairs_in(missing, label_column="label").columns.labels == ("label",)


def test_rows_of_one_text_are_refused():
    message = "train_data has the columns text; a reranker reads pairs of texts: rename two to"
    with pytest.raises(ValueError, match=message):
        pairs_in(Dataset.from_dict({"text": ["w5"]}))
