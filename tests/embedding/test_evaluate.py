"""Embedding models measured: formulas, what a folder's rows become, one evaluation from command to card."""

import json
import sys

import pyarrow
import pyarrow.parquet
import pytest
import torch
from commands import error_of
from datasets import Dataset, DatasetDict
from rows import each
from scipy.stats import spearmanr
from tiny_embeddings import make_sentence_folder, near_models
from tiny_glue import write_task

from homodistil_hf.cli import main
from homodistil_hf.data.corpus import load_text
from homodistil_hf.embedding.card import space_tables
from homodistil_hf.embedding.evaluate import (
    EmbeddingEvaluationSettings,
    RetrievalTask,
    evaluate_embedding,
    load_queries,
    load_tasks,
    space_matrix,
    task_of_texts,
)
from homodistil_hf.embedding.folder import export_embedding_model
from homodistil_hf.embedding.metrics import SIMILARITIES, pair_score, retrieval_scores
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.evaluation.guarantee import guarantee_problems, largest_share
from homodistil_hf.files.strict_json import read_json_object

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    for task in ("stsb", "qnli", "mrpc"):
        write_task(folder, task)
    for split, first in (("train", 0), ("validation", 8)):
        rows = [
            {
                "id": str(number),
                "context": f"w{10 + number} w{20 + number} w7 and so on, whatever stands here",
                "question": f"w{10 + number} w9",
                "answers": {"text": ["w7"] if number % 4 else [], "answer_start": [8] if number % 4 else []},
            }
            for number in range(first, first + 8)
        ]
        (folder / "squad_v2_part").mkdir(exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "squad_v2_part" / f"{split}.parquet")
    return folder


@pytest.fixture
def folders(tmp_path):
    """A teacher, and an export that is another model with vectors as long."""
    teacher = make_sentence_folder(tmp_path / "teacher")
    model = load_embedding_model(make_sentence_folder(tmp_path / "other", pooling="cls"))
    return teacher, export_embedding_model(model, tmp_path / "small", teacher=load_embedding_model(teacher))


def test_rows_become_tasks(data_dir):
    tasks = {task.name: task for task in load_tasks(data_dir, max_queries=6)}
    assert list(tasks) == ["stsb", "qnli", "squad_part", "mrpc"]
    assert len(tasks["stsb"].labels) == 12  # graded pairs are all taken
    assert len(tasks["mrpc"].labels) == 6
    squad = tasks["squad_part"]
    assert len(squad.documents) == 12  # of training questions, too; those without an answer aside
    assert [squad.documents[number].split()[0] for number in squad.answers] == [q.split()[0] for q in squad.queries]
    qnli = tasks["qnli"]
    assert len(qnli.documents) == 12 >= len(qnli.queries)


def test_questions_that_all_lack_an_answer_are_told(tmp_path):
    write_task(tmp_path, "qnli")
    rows = pyarrow.parquet.read_table(tmp_path / "qnli" / "validation.parquet").to_pylist()
    table = pyarrow.Table.from_pylist([row | {"label": 1} for row in rows])
    pyarrow.parquet.write_table(table, tmp_path / "qnli" / "validation.parquet")
    with pytest.raises(ValueError, match="^qnli has no question with an answer among its rows for evaluation"):
        load_tasks(tmp_path, max_queries=5)


def test_a_model_as_its_own_teacher_agrees_with_itself(folders, data_dir, tmp_path):
    text = tmp_path / "held-out.txt"
    text.write_text("\n".join(f"w{number} w{number % 7} w9 and some more words" for number in range(10, 40)))
    settings = {"data_dir": str(data_dir), "eval_data": str(text)}
    found = evaluate_embedding(folders[0], teacher=folders[0], settings=settings, output_dir=tmp_path / "out")
    assert found["agreement"]["cosine"] == pytest.approx(1)
    assert found["agreement"]["neighbours"] == pytest.approx(1)
    for metrics in found["scores"].values():
        for sides in metrics.values():
            assert sides["student"] == sides["teacher"] == sides.get("asymmetric", sides["student"])


def test_questions_and_documents_have_their_prompts(data_dir, tmp_path):
    sentence_transformers = pytest.importorskip("sentence_transformers")
    folder = make_sentence_folder(tmp_path / "model", prompts={"query": "w7 ", "document": "w8 "})
    stock = sentence_transformers.SentenceTransformer(str(folder))
    (task,) = (task for task in load_tasks(data_dir, max_queries=9) if task.name == "squad_part")
    settings = {"data_dir": str(data_dir), "max_queries": 9}
    told = evaluate_embedding(folder, settings=settings, output_dir=tmp_path / "results")["scores"][task.name]
    vectors = (
        torch.from_numpy(vectors)
        for vectors in (stock.encode_query(task.queries), stock.encode_document(task.documents))
    )
    assert {name: sides["student"] for name, sides in told.items()} == retrieval_scores(*vectors, task.answers)


def test_the_command_writes_results_facts_and_card(folders, data_dir, tmp_path, capsys):
    teacher, student = folders
    words = ["evaluate", str(student), "--task", "embedding", "--data_dir", str(data_dir), "--max_queries", "6"]
    table = tmp_path / "table.md"
    assert main([*words, "--teacher", str(teacher), "--output", str(table)]) == 0
    told = capsys.readouterr().out
    assert "| stsb, spearman |" in told
    assert "student's questions, teacher's documents" in told
    assert table.read_text() in told
    results = json.loads((tmp_path / "evaluations" / "small" / "embedding.json").read_text())
    assert set(results["scores"]["squad_part"]["mrr_at_10"]) == {"student", "teacher", "asymmetric"}
    assert str(tmp_path) not in json.dumps(results)
    facts = json.loads((student / "facts.json").read_text())
    assert facts["benchmarks"]["scores"] == results["scores"]
    card = (student / "README.md").read_text()
    assert f"| {100 * results['scores']['stsb']['spearman']['student']:.1f} |" in card
    assert str(tmp_path) not in card
    assert main([*words]) == 0  # no run has recorded a teacher: the model alone
    assert "teacher" not in capsys.readouterr().out.replace("teacher's", "")


@each(
    ("words", "message"),
    [
        ([], "data_dir, eval_data, queries and mteb_tasks are not set; name rows of tasks"),
        (["--data_dir", "nowhere"], "data_dir='nowhere' is no folder"),
        (["--data_dir", "."], "has rows of none of stsb, qnli, squad, mrpc, qqp; add some"),
        (
            ["--eval_data", "x.txt", "--max_texts", "3"],
            "max_texts=3 is not a whole number of at least 11",
        ),
        (["--data_dir", ".", "--learning_rate", "1"], "--learning_rate is for glue, squad"),
        (
            ["--data_dir", ".", "--text_column", "x"],
            "text_column='x' has no part in this run: it belongs to eval",
        ),
        (["--data_dir", ".", "--max_texts", "50"], "max_texts=50 has no part in this run: it belongs to eval_data"),
        (["--eval_data", "x", "--max_queries", "5"], "max_queries=5 has no part in this run: it belongs to data_dir"),
        (["--queries", "q.txt"], "queries=('q.txt',), documents=(): queries are looked up in documents; name both"),
        (
            ["--data_dir", ".", "--group_columns", "x"],
            "group_columns=('x',) has no part in this run: it belongs to quer",
        ),
        (["--eval_data", "x.txt"], "is compared with a teacher, and none is recorded: name --teacher"),
        (["--mteb_tasks", "STSBenchmrk"], "mteb_tasks=('STSBenchmrk',): 'STSBenchmrk' not found. Did you mean"),
        (["stsb", "--data_dir", "."], "task=embedding has a table of its own: name it alone, without stsb"),
    ],
)
def test_wrong_words_are_told_first(words, message, folders, monkeypatch, capsys):
    monkeypatch.chdir(folders[0])
    assert message in error_of(capsys, *["evaluate", str(folders[0]), "--task", "embedding", *words])


def test_text_of_short_lines_alone_is_refused(folders, tmp_path, capsys):
    (tmp_path / "lines.txt").write_text("\n".join(f"w{number}" for number in range(10, 40)))
    words = ["evaluate", str(folders[1]), "--task", "embedding", "--teacher", str(folders[0]), "--eval_data"]
    assert "has 0 texts to compare vectors of (in text files, lines of 20 characters or more)" in error_of(
        capsys, *words, str(tmp_path / "lines.txt")
    )


def test_tasks_of_mteb_are_measured(folders, tmp_path, monkeypatch):
    mteb = pytest.importorskip("mteb", reason="mteb is not installed")
    metadata = mteb.get_task("STSBenchmark").metadata.model_copy(update={"name": "Own", "eval_splits": ["test"]})
    texts = {f"sentence{side}": [f"w{10 + side * number} w9 w{30 + number}" for number in range(8)] for side in (1, 2)}

    class Own(type(mteb.get_task("STSBenchmark"))):
        def load_data(self, *args, **kwargs):
            self.dataset = DatasetDict(test=Dataset.from_dict(texts | {"score": list(range(8))}))
            self.data_loaded = True

    Own.metadata = metadata
    monkeypatch.setattr(mteb, "get_tasks", lambda tasks: [Own()] if tasks == ["Own"] else [])
    words = ["evaluate", str(folders[1]), "--task", "embedding", "--teacher", str(folders[0]), "--mteb_tasks", "Own"]
    assert main([*words, "--output_dir", str(tmp_path / "found")]) == 0
    scores = json.loads((tmp_path / "found" / "embedding.json").read_text())["scores"]["Own"]["cosine_spearman"]
    for side, folder in zip(("teacher", "student"), folders, strict=True):
        model = load_embedding_model(folder)
        vectors = [model.encode(texts[column]) for column in texts]
        assert scores[side] == pytest.approx(pair_score("spearman", *vectors, list(range(8))), abs=1e-4)
    assert scores["teacher"] != scores["student"]
    assert "| Own, cosine spearman |" in (folders[1] / "README.md").read_text()


@pytest.mark.filterwarnings("ignore:An input array is constant")
def test_a_collapsed_student_keeps_readable_facts(tmp_path):
    teacher = make_sentence_folder(tmp_path / "teacher")
    model = load_embedding_model(make_sentence_folder(tmp_path / "other"))
    norm = model.encoder.encoder.layer[-1].output.LayerNorm
    torch.nn.init.zeros_(norm.weight)
    torch.nn.init.ones_(norm.bias)
    student = export_embedding_model(model, tmp_path / "small", teacher=load_embedding_model(teacher))
    write_task(tmp_path / "rows", "stsb")
    evaluate_embedding(student, teacher=teacher, settings={"data_dir": str(tmp_path / "rows")})
    scores = read_json_object(student / "facts.json", "facts")["benchmarks"]["scores"]
    assert scores["stsb"]["spearman"]["student"] == 0.0


def test_tasks_of_mteb_need_its_library(folders, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mteb", None)
    assert "mteb_tasks=('SciFact',) needs mteb; pip install 'homodistil-hf[mteb]'" in error_of(
        capsys, *["evaluate", str(folders[0]), "--task", "embedding", "--mteb_tasks", "SciFact"]
    )


@each("name", ["another", None])
def test_scores_beside_another_teacher_are_not_mixed(folders, data_dir, tmp_path, name):
    settings = {"data_dir": str(data_dir), "max_queries": 4}
    evaluate_embedding(folders[1], teacher=folders[0], settings=settings)
    name = name or folders[0].name  # another one of that name
    other = make_sentence_folder(tmp_path / "others" / name, pooling="max")
    write_task(tmp_path / "alone", "stsb")
    evaluate_embedding(folders[1], teacher=other, settings={"data_dir": str(tmp_path / "alone")})
    told = json.loads((folders[1] / "facts.json").read_text())["benchmarks"]
    assert told["models"]["teacher"]["name"] == name
    assert set(told["scores"]) == {"stsb"}


@each("name", SIMILARITIES)
def test_retrieval_is_by_the_models_own_similarity(data_dir, tmp_path, name):
    """Vectors without length 1, whose ranks differ by cosine; ranks of sentence-transformers itself."""
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    folder = make_sentence_folder(tmp_path / "model", normalizes=False, similarity_fn_name=name)
    settings = {"data_dir": str(data_dir)}
    told = evaluate_embedding(folder, settings=settings, output_dir=tmp_path / "results")["scores"]
    stock = library.SentenceTransformer(str(folder))
    qnli, stsb = (
        next(task for task in load_tasks(data_dir, max_queries=1000) if task.name == name) for name in ("qnli", "stsb")
    )
    found = stock.similarity(stock.encode_query(qnli.queries), stock.encode_document(qnli.documents)).double()
    ranks = torch.stack([(row >= row[answer]).sum() for row, answer in zip(found, qnli.answers, strict=True)])
    assert told["qnli"]["mrr_at_10"]["student"] == pytest.approx(float(((ranks <= 10) / ranks).mean()))
    pairs = stock.similarity_pairwise(stock.encode(stsb.first), stock.encode(stsb.second))
    expected = spearmanr(pairs, stsb.labels).statistic
    assert told["stsb"]["spearman"]["student"] == pytest.approx(expected, abs=1e-3)


def test_other_students_make_a_table_of_pairings(folders, data_dir, tmp_path, capsys):
    teacher, student = folders
    model = load_embedding_model(make_sentence_folder(tmp_path / "third"))
    other = export_embedding_model(model, tmp_path / "larger", teacher=load_embedding_model(teacher))
    words = ["evaluate", str(student), "--task", "embedding", "--data_dir", str(data_dir), "--teacher", str(teacher)]
    assert main([*words, "--others", str(other)]) == 0
    told = capsys.readouterr().out
    assert "| queries by | MB | ms a query | index by teacher | index by student | index by larger |" in told
    results = json.loads((tmp_path / "evaluations" / "small" / "embedding.json").read_text())
    pairings = results["space"]["tasks"]["qnli"]
    scores = results["scores"]["qnli"]["ndcg_at_10"]
    assert pairings["student"]["teacher"]["ndcg_at_10"] == pytest.approx(scores["asymmetric"])
    assert pairings["larger"]["larger"] == pairings["teacher"]["teacher"]  # of the same weights
    assert json.loads((student / "facts.json").read_text())["benchmarks"]["space"] == results["space"]
    assert "index by larger" in (student / "README.md").read_text()
    assert "needs queries with documents: rows of qnli" in error_of(
        capsys, *[*words[:4], "--eval_data", "x.txt", "--teacher", str(teacher), "--others", str(other)]
    )


def test_other_students_of_other_spaces_or_equal_names_are_refused_first(folders, data_dir, tmp_path, capsys):
    teacher, student = folders
    words = ["evaluate", str(student), "--task", "embedding", "--data_dir", str(data_dir), "--teacher", str(teacher)]
    short = make_sentence_folder(tmp_path / "short", dense=5)
    named_alike = make_sentence_folder(tmp_path / "named" / "teacher")
    for others, message in (
        ([short], "models have vectors of the lengths"),
        ([named_alike], "would stand in a table as teacher, student, teacher; names must differ"),
        ([student, student], "would stand in a table as teacher, student, small, small; names must differ"),
    ):
        assert main([*words, "--others", *map(str, others)]) == 2
        told = capsys.readouterr()
        assert message in told.err
        assert "stsb: rows" not in told.err  # nothing was measured before


NUM_QUERIES = 60


@pytest.fixture
def sources(tmp_path):
    rows = [
        {"question": f"w{10 + number} w{11 + number % 9}", "language": "de" if number % 3 else "en"}
        for number in range(NUM_QUERIES)
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "queries.parquet")
    (tmp_path / "documents.txt").write_text("\n".join(f"w{number} w{number + 1}" for number in range(10, 60, 2)))
    return {"queries": (str(tmp_path / "queries.parquet"),), "documents": (str(tmp_path / "documents.txt"),)}


@pytest.fixture
def near(tmp_path):
    """A teacher, and an export of nearly the same weights."""
    teacher, model = near_models(tmp_path)
    return tmp_path / "teacher", export_embedding_model(model, tmp_path / "student", teacher=teacher)


def test_queries_have_groups_and_documents_are_lines(sources):
    settings = EmbeddingEvaluationSettings(
        **sources, query_column="question", group_columns=("language",), max_queries=20
    )
    task = load_queries(settings)
    assert (len(task.queries), len(task.documents), task.answers) == (20, 25, None)
    assert task.queries[1] == "w13 w14"  # every third of all
    assert task.groups == {"language": ["en"] * 20}
    settings = EmbeddingEvaluationSettings(**sources | {"queries": sources["documents"]}, group_columns=("language",))
    with pytest.raises(ValueError, match=r"^queries=.*missing text column \(group_columns='language'\)"):
        load_queries(settings)


def test_queries_and_documents_may_be_tables_of_words(sources, tmp_path):
    queries = Dataset.from_parquet(sources["queries"][0])
    queries.to_csv(tmp_path / "queries.csv", index=False)
    documents = (tmp_path / "documents.txt").read_text().splitlines()
    Dataset.from_dict({"text": documents[20:]}).to_csv(tmp_path / "rest.tsv", sep="\t", index=False)
    (tmp_path / "first.txt").write_text("\n".join(documents[:20]))
    tables = {"queries": (str(tmp_path / "queries.csv"),)}
    tables |= {"documents": (str(tmp_path / "first.txt"), str(tmp_path / "rest.tsv"))}
    settings = {"query_column": "question", "group_columns": ("language",)}
    found, expected = (load_queries(EmbeddingEvaluationSettings(**one, **settings)) for one in (tables, sources))
    assert found == expected
    with pytest.raises(ValueError, match=r"^queries=.*queries.csv': missing text column \(query_column='no'\)"):
        load_queries(EmbeddingEvaluationSettings(**tables, query_column="no"))


@pytest.mark.parametrize(
    ("query", "document"), [("question", "context"), ("query", "passage"), ("anchor", "positive"), ("query", "text")]
)
def test_of_rows_of_a_query_and_a_text_each_side_is_read_alone(query, document, tmp_path):
    count = 12
    rows = {query: [f"w{place} w1" for place in range(count)], document: [f"w{place} w2" for place in range(count)]}
    rows[query][5] = rows[query][4]  # asked twice, in two languages
    rows["language"] = ["de" if place == 4 else "en" for place in range(count)]
    Dataset.from_dict(rows).to_parquet(tmp_path / "pairs.parquet")
    pairs = (str(tmp_path / "pairs.parquet"),)
    given = {"queries": pairs, "documents": pairs, "group_columns": ("language",)}
    task = load_queries(EmbeddingEvaluationSettings(**given))
    assert task.queries == rows[query]
    assert task.documents == rows[document]
    assert task.groups == {"language": rows["language"]}
    assert task.columns.startswith(f"queries read: {query}, language; not read: {document}; documents read: ")
    assert f"; documents read: {document}; not read: " in task.columns


def test_another_side_is_refused(tmp_path):
    with pytest.raises(ValueError, match="^side='query': expected 'queries', 'documents' or None$"):
        load_text(tmp_path / "rows.txt", side="query")


def test_a_query_that_is_no_text_is_none(tmp_path):
    rows = {"query": list(range(4)), "text": [f"w{place}" for place in range(4)]}
    Dataset.from_dict(rows).to_parquet(tmp_path / "rows.parquet")
    both = (str(tmp_path / "rows.parquet"),)
    assert load_queries(EmbeddingEvaluationSettings(queries=both, documents=both)).queries == rows["text"]


def test_a_guarantee_is_measured_recorded_and_asked_for(near, sources, capsys):
    teacher, student = near
    words = ["--queries", *sources["queries"], "--documents", *sources["documents"], "--query_column", "question"]
    words += ["--group_columns", "language", "--teacher", str(teacher)]
    assert main(["evaluate", str(student), "--task", "embedding", *words]) == 0
    told = capsys.readouterr().out
    facts = json.loads((student / "facts.json").read_text())
    found = facts["benchmarks"]["guarantee"]["queries"]

    task = load_queries(EmbeddingEvaluationSettings(**sources, query_column="question"))
    both = [load_embedding_model(folder) for folder in (student, teacher)]
    index = both[1].encode(task.documents)
    hits = [(model.encode(task.queries) @ index.T).argmax(1) for model in both]
    num_changed = int((hits[0] != hits[1]).sum())
    assert 0 < num_changed == found["num_changed"] < found["num_rows"] == NUM_QUERIES
    confidence = 1 - 0.05 / (1 + sum(map(len, found["groups"].values())))
    assert found["at_least"] == 1 - largest_share(num_changed, NUM_QUERIES, confidence=confidence)
    assert set(found["groups"]["language"]) == {"de", "en"}
    row = f"| queries | 60 | {num_changed} |"
    assert row in told
    assert row in (student / "README.md").read_text()

    recorded, bound = facts["benchmarks"]["guarantee"], found["at_least"]
    assert list(guarantee_problems(recorded, {"agreement": bound - 0.001})) == []
    (problem,) = guarantee_problems(recorded, {"agreement": bound + 0.001})
    assert problem.startswith("queries: expected answers as the teacher's for at least")
    of_groups = list(guarantee_problems(recorded, {"agreement_of_groups": 0.999}))
    assert any(problem.startswith("queries, language: de: expected") for problem in of_groups)


def test_pairings_are_those_one_by_one(tmp_path):
    documents = [f"w{number} w{number + 1} w{number % 7 + 5}" for number in range(10, 60)]
    asked = [f"w{number} w{number + 2}" for number in range(10, 40)]
    shared = {"normalizes": False, "similarity_fn_name": "dot"}
    models = dict(zip(("teacher", "half"), near_models(tmp_path, **shared), strict=True))
    answers = list(range(len(asked)))
    found = space_matrix(models, [RetrievalTask("mine", asked, documents, answers)])
    queries, index = ({name: model.encode(texts) for name, model in models.items()} for texts in (asked, documents))
    wanted = (queries["teacher"] @ index["teacher"].T).argmax(1)
    for asking in models:
        for answering in models:
            cell = found["tasks"]["mine"][asking][answering]
            hits = (queries[asking] @ index[answering].T).argmax(1)
            assert cell["first_hits"] == pytest.approx(float((hits == wanted).double().mean()))
            scores = retrieval_scores(queries[asking], index[answering], answers, similarity="dot")
            assert cell["ndcg_at_10"] == scores["ndcg_at_10"]
    assert found["tasks"]["mine"]["half"]["teacher"]["first_hits"] < 1
    assert set(found["models"]["half"]) == {"size_bytes", "ms"}
    titles = [title for title, _ in space_tables(json.loads(json.dumps(found)))]
    measures = ["nDCG@10 × 100", "first hits as the teacher's alone, %"]
    assert titles == [f"mine, 30 in an index of 50: {measure}; ms in {found['runtime']}" for measure in measures]
    headings, cells = space_tables(found)[1][1]
    assert headings[3:] == ["index by teacher", "index by half"]
    assert cells[0][3] == "100.0"


def test_texts_are_looked_up_among_the_others():
    task = task_of_texts(["a", "b", "c", "b", "d", "e"])
    assert (task.queries, task.documents, task.answers) == (["b", "d"], ["a", "c", "e"], None)
    assert task_of_texts(["a", "b", "b", "c"]) is None
