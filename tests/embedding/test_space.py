"""Who encodes queries and who the index: all pairings, one by one."""

import json

import pytest
import torch
from tiny_embeddings import make_sentence_folder

from homodistil_hf.embedding.card import space_tables
from homodistil_hf.embedding.evaluate import space_matrix, task_of_texts
from homodistil_hf.embedding.metrics import retrieval_scores
from homodistil_hf.embedding.reading import load_embedding_model
from homodistil_hf.embedding.tasks import RetrievalTask

DOCUMENTS = [f"w{number} w{number + 1} w{number % 7 + 5}" for number in range(10, 60)]
QUERIES = [f"w{number} w{number + 2}" for number in range(10, 40)]


def models_in(tmp_path, **shared):
    teacher, member = (load_embedding_model(make_sentence_folder(tmp_path / name, **shared)) for name in ("a", "b"))
    torch.manual_seed(0)
    for parameter in member.encoder.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return {"teacher": teacher, "half": member}


def test_pairings_are_those_one_by_one(tmp_path):
    models = models_in(tmp_path, normalizes=False, similarity_fn_name="dot")
    answers = [number % len(DOCUMENTS) for number in range(len(QUERIES))]
    found = space_matrix(models, [RetrievalTask("mine", QUERIES, DOCUMENTS, answers)])
    queries, index = ({name: model.encode(texts) for name, model in models.items()} for texts in (QUERIES, DOCUMENTS))
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
    assert space_tables({**found, "sizes": {}})[0][0].startswith("mine: nDCG")  # of an earlier record
    headings, cells = space_tables(found)[1][1]
    assert headings[3:] == ["index by teacher", "index by half"]
    assert cells[0][3] == "100.0"


def test_texts_are_looked_up_among_the_others():
    task = task_of_texts(["a", "b", "c", "b", "d", "e"])
    assert (task.queries, task.documents, task.answers) == (["b", "d"], ["a", "c", "e"], None)
    assert task_of_texts(["a", "b", "b", "c"]) is None


def test_other_lengths_are_refused(tmp_path):
    models = models_in(tmp_path)
    models["short"] = load_embedding_model(make_sentence_folder(tmp_path / "short", dense=5))
    with pytest.raises(ValueError, match="models have vectors of the lengths .*'short': 5.*; expected one space"):
        space_matrix(models, [task_of_texts(DOCUMENTS)])
