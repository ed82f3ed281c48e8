"""Vectors of a teacher that isn't here: what is read and refused, look-ups, what a student starts from, and runs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import error_of
from datasets import Dataset, Features, List, Value
from rows import each
from tiny_embeddings import make_sentence_folder
from tiny_files import assert_family_resumed_alike, assert_resumed_alike, write_config
from tiny_models import VOCAB_SIZE, randomized, tiny_config, tiny_tokenizer
from tiny_trainers import QUARTER, SIXTEENTH
from transformers import BertForMaskedLM

from homodistil_hf import load_nested, verify_export
from homodistil_hf.cli import main
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.embedding.trainer import EmbeddingDistilTrainer
from homodistil_hf.embedding.vectors import TeacherVectors, learner_of, load_teacher_vectors, tokenize_vectors
from homodistil_hf.runs.config import parse_run
from homodistil_hf.runs.kinds import run_kind_of

TEXTS = ["w7 w8", "w9", "w10 w11 w12"]


def vectors_of(num_channels=4):
    return torch.randn(3, num_channels, generator=torch.Generator().manual_seed(0))


def written(folder, kind):
    """A file of three vectors, as one of several libraries writes it."""
    vectors = vectors_of()
    lists, file = vectors.tolist(), folder / ("vectors.jsonl" if kind == "jsonl" else "vectors.parquet")
    if kind == "numpy":
        pd.DataFrame({"text": TEXTS, "vector": list(vectors.numpy())}).to_parquet(file)
    elif kind == "numpy, float64":
        pd.DataFrame({"text": TEXTS, "vector": list(vectors.double().numpy())}).to_parquet(file)
    elif kind == "jsonl":
        pd.DataFrame({"text": TEXTS, "vector": lists}).to_json(file, orient="records", lines=True, double_precision=15)
    else:
        length = 4 if kind == "fixed size" else -1
        features = Features({"text": Value("string"), "vector": List(Value("float32"), length=length)})
        Dataset.from_dict({"text": TEXTS, "vector": lists}, features=features).to_parquet(file)
    return file


@each("kind", ["lists", "fixed size", "numpy", "numpy, float64", "jsonl"])
def test_vectors_are_read_as_they_were_written(tmp_path, kind):
    found = load_teacher_vectors(written(tmp_path, kind))
    assert found.texts == TEXTS
    assert torch.equal(found.vectors, vectors_of())
    assert (found.dimension, found.normalizes, found.vectors.dtype) == (4, False, torch.float32)


def test_texts_are_looked_up_in_any_order(tmp_path):
    found = load_teacher_vectors(written(tmp_path, "lists"))
    assert torch.equal(found.encode([TEXTS[2], TEXTS[0], TEXTS[2]], prompt_name="query"), vectors_of()[[2, 0, 2]])
    message = r"^vectors.parquet has no vectors of 1 of 2 texts, such as 'w1'; its model isn't here"
    with pytest.raises(ValueError, match=message):
        found.encode(["w1", "w9"])
    assert torch.equal(found.encode(text for text in TEXTS[:2]), vectors_of()[:2])
    with pytest.raises(ValueError, match="^texts='w9' is one text; pass a list"):
        found.encode("w9")


def test_lengths_of_1_are_seen_in_spite_of_rounding(tmp_path):
    units = torch.nn.functional.normalize(vectors_of(), dim=1)
    assert TeacherVectors("a", TEXTS, units.half().float()).normalizes
    assert not TeacherVectors("a", TEXTS, 1.1 * units).normalizes


def test_a_text_that_is_there_twice_counts_once(tmp_path):
    vectors = [[1.0, 2.0], [3.0, 4.0], [1.0, 2.01]]  # a service never gives the same vector twice
    Dataset.from_dict({"text": ["a", "b", "a"], "vector": vectors}).to_parquet(tmp_path / "v.parquet")
    found = load_teacher_vectors(tmp_path / "v.parquet")
    assert found.texts == ["a", "b"]
    assert found.vectors.tolist() == vectors[:2]


def test_shorter_vectors_are_those_along_the_axes():
    vectors = torch.nn.functional.normalize(vectors_of(), dim=1)
    shorter = TeacherVectors("a", TEXTS, vectors).along(torch.eye(4)[:2]).vectors
    assert torch.allclose(shorter, torch.nn.functional.normalize(vectors[:, :2], dim=1))


NOT_FINITE = "has a number that is missing, too large or not finite in row 1; encode such texts again"


@pytest.mark.slow
@each(
    ("columns", "message"),
    [
        ({"text": ["a"], "embedding": [[1.0]]}, "lacks the column 'vector'; a row has a text and its vector: rename"),
        ({"words": ["a"], "vector": [[1.0]]}, r"lacks the column 'text'; .* name that of the texts \(text_column\)"),
        (
            {"text": ["a", "b"], "vector": [[1.0, 2.0], [1.0]]},
            "has 2 numbers in row 0 and 1 in row 1; expected as man",
        ),
        ({"text": ["a", "b"], "vector": [[1.0, 2.0], None]}, "has 2 numbers in row 0 and 0 in row 1"),
        ({"text": ["a"], "vector": [[]]}, "column 'vector' holds values of type list<.*: null>; expected a list of"),
        ({"text": ["a"], "vector": ["[1, 2]"]}, "column 'vector' holds values of type string; expected a list of num"),
        ({"text": ["a"], "vector": [[[1.0]]]}, "column 'vector' holds values of type list<.*>; expected a list of"),
        ({"text": ["a", "b", "c"], "vector": [[1.0, 2.0], [1.0, np.nan], [np.inf, 1.0]]}, NOT_FINITE),
        ({"text": ["a", "b"], "vector": [[1.0, 2.0], [None, 1.0]]}, NOT_FINITE),
        ({"text": ["a", "b"], "vector": [[1.0, 2.0], [3e38, 1.0]]}, NOT_FINITE),
        ({"text": ["a", "b"], "vector": [[1.0, 2.0], [0.0, 0.0]]}, "has only zeros in row 1; encode such texts again"),
        ({"text": ["a", " "], "vector": [[1.0], [2.0]]}, "has 1 row without 'text', the first is row 2; drop them"),
        ({"text": ["a", None], "vector": [[1.0], [2.0]]}, "has 1 row without 'text', the first is row 2; drop them"),
        ({"text": [1, 2], "vector": [[1.0], [2.0]]}, "column 'text' holds int64; expected a text a row"),
        (
            {"text": ["a", "b", "a"], "vector": [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]},
            "has two different vectors of one text, 'a', in the rows 0 and 2; they are of two models, or of two",
        ),
    ],
)
def test_bad_vectors_are_refused_in_words(tmp_path, columns, message):
    Dataset.from_dict(columns).to_parquet(tmp_path / "v.parquet")
    with pytest.raises(ValueError, match=rf"^teacher_vectors='.*v\.parquet'.*{message}"):
        load_teacher_vectors(tmp_path / "v.parquet")


def test_a_row_is_a_whole_text_cut_at_the_length(tmp_path, caplog):
    documents = load_teacher_vectors(written(tmp_path, "lists")).documents
    tokenizer = tiny_tokenizer()
    rows = tokenize_vectors(documents, tokenizer, max_length=4)
    assert rows.column_names == ["vector", "input_ids"]
    assert [len(ids) for ids in rows["input_ids"]] == [4, 3, 4]
    assert rows["input_ids"][0] == tokenizer(TEXTS[0])["input_ids"]
    assert torch.equal(torch.tensor(rows["vector"][:]), vectors_of())
    assert "2 of 3 texts are cut at max_seq_length=4 tokens, but their vectors are of the whole" in caplog.text


@each("normalizes", [True, False])
def test_a_start_keeps_its_pooling_and_takes_the_length_of_the_vectors(tmp_path, normalizes):
    start = load_embedding_model(make_sentence_folder(tmp_path / "start", pooling="cls", dense=5))
    vectors = torch.nn.functional.normalize(vectors_of(), dim=1) if normalizes else vectors_of()
    learner = learner_of(start, TeacherVectors("a", TEXTS, vectors, "cosine" if normalizes else "dot"))
    assert (learner.settings.pooling, learner.settings.normalizes) == ("cls", normalizes)
    assert (learner.dense, learner.dimension) == ((), 4)
    assert learner.similarity == ("cosine" if normalizes else "dot")
    assert start.dimension == 5


def test_a_plain_encoder_is_a_start_whose_states_are_averaged(tmp_path):
    torch.manual_seed(0)
    model = randomized(BertForMaskedLM(tiny_config()))
    model.save_pretrained(tmp_path / "words")
    tiny_tokenizer().save_pretrained(tmp_path / "words")
    learner = learner_of(tmp_path / "words", TeacherVectors("a", TEXTS, vectors_of()))
    assert (learner.settings.pooling, learner.settings.max_seq_length) == ("mean", 32)
    ids = torch.tensor([[2, 7, 8, 3]])
    with torch.no_grad():
        expected, found = model.bert(ids).last_hidden_state, learner.encoder(ids).last_hidden_state
    assert torch.equal(found, expected)


# Runs

DIMENSION = 48
"""More channels than the start's 32."""


def texts_of(num_texts, *, seed=0):
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(7, VOCAB_SIZE, (num_texts, 6), generator=generator)
    return [" ".join(f"w{word}" for word in row) for row in words.tolist()]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Texts and vectors that are a function of their words, as a larger model's are."""
    texts = texts_of(200)
    ids = torch.tensor([[int(word[1:]) for word in text.split()] for text in texts])
    table = torch.randn(VOCAB_SIZE, DIMENSION, generator=torch.Generator().manual_seed(1))
    vectors = torch.nn.functional.normalize(table[ids].mean(1), dim=1)
    return TeacherVectors("big", texts, vectors)


@pytest.fixture
def config(tmp_path, teacher):
    make_sentence_folder(tmp_path / "start")
    teacher.documents.to_parquet(tmp_path / "vectors.parquet")

    def write(**settings):
        given = {"teacher": None, "train_data": [], "eval_data": [], "num_scoring_batches": 2}
        given |= {"teacher_vectors": str(tmp_path / "vectors.parquet"), "start": str(tmp_path / "start")}
        path = write_config(tmp_path, **given | settings)
        values = json.loads(path.read_text())
        path.write_text(json.dumps({name: value for name, value in values.items() if value not in (None, [])}))
        return str(path)

    return write


@pytest.mark.slow
def test_a_narrower_student_learns_given_vectors(config, tmp_path, capsys):
    assert main(["distill", config(save_steps=6, save_strategy="steps", student=QUARTER)]) == 0
    told = capsys.readouterr().out
    assert "10 of 200 documents of teacher_vectors are held out" in told
    assert "in the teacher's index" in told
    student = load_embedding_model(tmp_path / "run" / "student")
    assert (student.encoder.config.hidden_size, student.dimension) == (16, DIMENSION)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    rows = {row["name"]: row for row in results["models"]}
    assert (rows["teacher"]["num_parameters"], rows["teacher"]["cosine"]) == (None, 1.0)
    assert 0 < rows["student"]["cosine"] < 1
    facts = json.loads((tmp_path / "run" / "student" / "facts.json").read_text())
    assert facts["teacher"]["name"] == "vectors.parquet"
    assert (facts["teacher"]["num_texts"], facts["teacher"]["dimension"]) == (200, DIMENSION)
    assert facts["teacher"]["start"]["name"] == "start"
    assert "latency" not in facts  # there is nothing to be timed beside
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "Made from `start` by distilling it towards the vectors of 200 texts in `vectors.parquet`." in card
    assert "an index of the teacher's can stay" in card
    assert "The student derives from `start`, whose licence" in card
    command = ["distill", config(save_steps=6, save_strategy="steps", student=QUARTER)]
    assert_resumed_alike(command, tmp_path / "run", "checkpoint-6")


@pytest.mark.slow
def test_without_a_size_the_student_stays_as_its_start(config, tmp_path):
    assert main(["distill", config(student=None, max_steps=30, learning_rate=1e-3)]) == 0
    student = load_embedding_model(tmp_path / "run" / "student")
    assert (student.encoder.config.hidden_size, student.encoder.config.intermediate_size) == (32, 64)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["evaluation"]["cosine"] > 0.5
    assert verify_export(tmp_path / "run" / "student").problems == ()


def test_targets_are_those_of_a_run_with_the_teacher_itself(make_trainer, tmp_path):
    model = load_embedding_model(make_sentence_folder(tmp_path / "model", dense=5))
    texts = texts_of(64)
    given = TeacherVectors("its own", texts, model.encode(texts))
    rows = tokenize_vectors(given.documents, model.tokenizer, max_length=12)
    settings = {"trainer_class": EmbeddingDistilTrainer, "student": QUARTER, "pruning_end_fraction": 0.0}
    data = {"train_dataset": rows, "eval_dataset": rows}
    ordinary = make_trainer(model=model, train_dataset=rows.remove_columns("vector"), eval_dataset=rows, **settings)
    ours = make_trainer(model=model, teacher_model=given, **data, **settings)
    batches = [next(iter(trainer.get_train_dataloader())) for trainer in (ordinary, ours)]
    assert "vector" not in batches[0]
    assert torch.equal(batches[0]["input_ids"], batches[1]["input_ids"])
    wanted = [trainer.held_out._vectors(batch)[2] for trainer, batch in zip((ordinary, ours), batches, strict=True)]
    assert torch.allclose(wanted[0], wanted[1], atol=1e-6, rtol=0)
    assert torch.equal(*(batch["labels"] for batch in batches))  # units are scored along the same directions


@pytest.mark.slow
def test_the_loss_is_the_distance_to_the_rows_vectors(make_trainer, tmp_path, teacher, caplog):
    caplog.set_level("INFO", logger="homodistil_hf")
    start = load_embedding_model(make_sentence_folder(tmp_path / "start"))
    rows = tokenize_vectors(teacher.documents, start.tokenizer, max_length=12)
    trainer = make_trainer(
        model=start,
        teacher_model=teacher,
        trainer_class=EmbeddingDistilTrainer,
        train_dataset=rows,
        eval_dataset=rows.select(range(16)),
        student=None,
    )
    assert trainer.args.learning_rate == 9e-4  # 3e-4 · 384 / 128, the narrowest that rates were measured with
    assert "learning_rate=0.0009, as none is given: for a start of 32 channels" in caplog.text
    assert trainer.evaluate()["eval_cosine"] > 0.5  # the map is fitted before it is used
    (batch, counts) = next(trainer.first_batches(num_texts=1))
    trainer.model.eval()
    with torch.no_grad():
        terms, _ = trainer.distillation.terms(trainer.model, batch, counts)
    vectors = trainer.held_out._vectors(batch)[0]
    assert set(terms) == {"vector"}
    assert float(terms["vector"]) == pytest.approx(
        float((vectors - batch["vector"]).square().sum(-1).mean()), rel=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize("output", ["teacher", 7])
def test_a_family_of_given_vectors_shares_their_space(config, tmp_path, capsys, output):
    words = ["distill", config(student=[QUARTER, SIXTEENTH], max_steps=3, output=output)]
    assert main(words) == 0
    told = capsys.readouterr().out
    folders = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    models = [load_embedding_model(tmp_path / "run" / folder / "student") for folder in folders]
    assert [model.dimension for model in models] == [7 if output == 7 else DIMENSION] * 2
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    (pairings,) = results["space"]["tasks"].values()
    assert list(pairings) == list(pairings["teacher"]) == ["teacher", *folders]
    assert pairings["teacher"]["teacher"]["first_hits"] == 1.0
    assert list(results["space"]["models"]) == folders
    assert f"index by {folders[1]}" in told
    assert_family_resumed_alike(words, tmp_path / "run" / folders[1])


@pytest.mark.slow
@pytest.mark.parametrize("output", ["teacher", 7])
def test_all_sizes_of_a_nested_student_learn_given_vectors(config, tmp_path, output):
    words = ["distill", config(student=[QUARTER, SIXTEENTH], nested=True, max_steps=3, output=output)]
    assert main(words) == 0
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    names = [row["name"] for row in results["models"]]
    models = [load_nested(tmp_path / "run", name) for name in names[1:]]
    assert [model.encoder.config.hidden_size for model in models] == [16, 8]
    assert [model.dimension for model in models] == [7 if output == 7 else DIMENSION] * 2
    (pairings,) = results["space"]["tasks"].values()
    assert list(pairings) == names
    assert all(0 < row["cosine"] < 1 for row in results["models"][1:])


@pytest.mark.slow
def test_held_out_vectors_bound_how_often_first_hits_change(config, tmp_path, teacher, capsys):
    assert main(["distill", config(student=QUARTER, max_steps=3)]) == 0
    for name, texts in (("queries", teacher.texts[:40]), ("documents", teacher.texts[40:])):
        Dataset.from_dict({"text": texts}).to_parquet(tmp_path / f"{name}.parquet")
    run = str(tmp_path / "run")
    words = ["evaluate", run, "--task", "embedding", "--queries", str(tmp_path / "queries.parquet")]
    words += ["--documents", str(tmp_path / "documents.parquet")]
    assert "is compared with a teacher, and none is recorded: name --teacher" in error_of(capsys, *words)
    assert main([*words, "--teacher", str(tmp_path / "vectors.parquet")]) == 0
    assert "| queries | 40 |" in capsys.readouterr().out
    facts = json.loads((tmp_path / "run" / "student" / "facts.json").read_text())
    assert facts["benchmarks"]["guarantee"]["queries"]["num_rows"] == 40
    assert main(["verify", f"{run}/student", "--least", "agreement=0.999"]) == 1
    capsys.readouterr()
    words = ["cascade", "--model", run, "--queries", str(tmp_path / "queries.parquet")]
    assert "no run has recorded its teacher, a model; name it with --teacher" in error_of(
        capsys, *words, "--documents", str(tmp_path / "documents.parquet")
    )


@pytest.mark.slow
@each(
    ("settings", "message"),
    [
        (
            {"teacher": "some/model"},
            "teacher='some/model' has no part in a run with teacher_vectors: teacher_vectors ha",
        ),
        (
            {"train_data": "text.txt"},
            "train_data=['text.txt'] has no part in a run with teacher_vectors: the texts of",
        ),
        ({"start": None}, "start=None is not set; name one in CONFIG or as --start models/all-MiniLM-L6-v2"),
        ({"start": "nowhere/at/all"}, "start='nowhere/at/all'"),
        ({"streaming": True}, "streaming=True has no part in a run with teacher_vectors: vectors are read at once"),
        ({"vocabulary": "keep=50"}, "trim that of start first, by `homodistil trim`"),
        ({"plain": True}, "plain=True has no part in a run with teacher_vectors: its students have no Dense, and one"),
        ({"hidden_weight": 2.0}, "hidden_weight=2.0 has no part in a run with teacher_vectors: it compares states"),
        ({"per_device_train_batch_size": 4096}, "has 190 rows, fewer than the 4096 of a step"),
        ({"per_device_train_batch_size": 4096}, "teacher_vectors=['"),
        ({"output": 48}, "output=48: expected 'teacher', 'student', or a length from 1 to 47"),
        ({"similarity": "cosinus"}, "similarity"),
        ({"teacher_vectors": "nowhere.parquet"}, "teacher_vectors='nowhere.parquet' does not exist; expected a file"),
        (
            {"teacher_vectors": None, "teacher": "x", "method": "embedding"},
            "it belongs to teacher_vectors: the student",
        ),
    ],
)
def test_what_does_not_go_with_vectors_is_refused(config, settings, message, capsys):
    if settings.get("teacher_vectors", "") is None:
        settings = settings | {"train_data": "text.txt"}
    path = config(**settings)
    assert message in error_of(capsys, "distill", path)
    assert not (Path(path).parent / "run" / "checkpoint-1").exists()


def test_held_out_vectors_are_read_from_a_file_of_their_own(config, tmp_path, teacher):
    part = Dataset.from_dict({"words": teacher.texts[:20], "vector": teacher.vectors[:20].tolist()})
    part.to_parquet(tmp_path / "held_out.parquet")
    teacher.documents.rename_column("text", "words").to_parquet(tmp_path / "words.parquet")
    names = {"teacher_vectors": str(tmp_path / "words.parquet"), "eval_data": str(tmp_path / "held_out.parquet")}
    settings = parse_run([config(text_column="words", eval_split="train", **names)])
    run = run_kind_of(settings)
    inputs = run.inputs(settings)
    held_out = run.rows(settings, inputs, print).held_out
    assert torch.allclose(torch.tensor(held_out["vector"][:]), teacher.vectors[:20])
    assert load_teacher_vectors(names["eval_data"], text_column="words").texts == teacher.texts[:20]
