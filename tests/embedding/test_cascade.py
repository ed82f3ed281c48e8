"""Queries that a student is in doubt about go to the teacher, in the teacher's index."""

import json
import math

import pytest
import torch
from commands import error_of
from rows import each
from tiny_embeddings import make_sentence_folder, near_models

from homodistil_hf import Cascade
from homodistil_hf.cli import main
from homodistil_hf.embedding.cascade import SHARES, Encoded, choose_margin, curve
from homodistil_hf.embedding.folder import export_embedding_model
from homodistil_hf.embedding.model import load_embedding_model
from homodistil_hf.evaluation.guarantee import largest_share

DOCUMENTS = [f"w{number} w{number + 1} w{number % 7 + 5}" for number in range(10, 60)]
QUERIES = [f"w{number} w{number + 2}" for number in range(10, 50)]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A student of nearly the teacher's weights, and the teacher."""
    return near_models(tmp_path_factory.mktemp("cascade"))[::-1]


@pytest.fixture(scope="module")
def index(models):
    return models[1].encode(DOCUMENTS)


def by_hand(model, index):
    return model.encode(QUERIES) @ index.T  # of length 1


@pytest.mark.parametrize(("margin", "side"), [(0.0, 0), (math.inf, 1)])
def test_a_cascade_without_and_with_all_queries_is_one_of_its_models(models, index, margin, side):
    found = Cascade(*models, index, margin).search(QUERIES, k=3)
    expected = by_hand(models[side], index).topk(3)
    assert torch.equal(found.rows, expected.indices)
    assert torch.allclose(found.similarities, expected.values)
    assert found.asked.tolist() == [bool(side)] * len(QUERIES)


def test_queries_of_small_margins_are_answered_by_the_teacher(models, index):
    similarities = [by_hand(model, index) for model in models]
    margins = similarities[0].topk(2).values
    margins = margins[:, 0] - margins[:, 1]
    margin = float(margins.sort().values[10:12].mean())
    found = Cascade(*models, index, margin).search(QUERIES, k=1)
    assert found.asked.tolist() == (margins < margin).tolist()
    assert int(found.asked.sum()) == 11
    expected = torch.where(found.asked, similarities[1].argmax(1), similarities[0].argmax(1))
    assert found.rows[:, 0].tolist() == expected.tolist()
    wanted = similarities[1].argmax(1)
    own = (similarities[0].argmax(1) == wanted).double().mean()
    assert own < (found.rows[:, 0] == wanted).double().mean()


def test_folders_are_loaded_and_other_spaces_refused(models, index, tmp_path):
    folder = make_sentence_folder(tmp_path / "teacher")
    cascade = Cascade(folder, str(folder), index, 0.1)
    assert cascade.search(QUERIES[:2]).rows.shape == (2, 10)
    other = load_embedding_model(make_sentence_folder(tmp_path / "other", dense=5))
    with pytest.raises(ValueError, match="and vectors have the lengths .*'student': 5"):
        Cascade(other, models[1], index)
    with pytest.raises(ValueError, match="documents has 1 rows; a margin is between two of them"):
        Cascade(*models, index[:1])
    export_embedding_model(models[0], tmp_path / "apart", teacher=models[1], facts={}, has_own_space=True)
    with pytest.raises(ValueError, match="^student='.*apart' has vectors of another space than the teacher's"):
        Cascade(tmp_path / "apart", models[1], index)


def test_documents_may_be_of_any_type(models, index):
    expected = Cascade(*models, index).search(QUERIES, k=3).rows
    for documents in (index.double(), index.numpy()):
        assert torch.equal(Cascade(*models, documents).search(QUERIES, k=3).rows, expected)


MS = {"student": 1.0, "teacher": 10.0}


def encoded(num_queries=200, seed=0):
    """Hits of small margins change more often."""
    generator = torch.Generator().manual_seed(seed)
    margins = torch.rand(num_queries, generator=generator)
    same = torch.rand(num_queries, generator=generator) < 0.5 + margins
    gains = torch.rand(2, num_queries, generator=generator, dtype=torch.float64)
    return Encoded(margins, same, (gains[0], gains[1]))


def test_the_queries_of_least_margin_go_first():
    found = encoded()
    rows = curve(found, MS)
    assert [row["share"] for row in rows] == list(SHARES)
    order = sorted(range(200), key=lambda query: float(found.margins[query]))
    for row in rows:
        asked = set(order[: round(200 * row["share"])])
        agreed = sum(query in asked or bool(found.same[query]) for query in range(200))
        gain = sum(float(found.gains[query in asked][query]) for query in range(200))
        assert row["agreement"] == pytest.approx(agreed / 200)
        assert row["ndcg_at_10"] == pytest.approx(gain / 200)
        assert row["ms"] == pytest.approx(1 + 10 * row["share"])
    assert rows[-1]["agreement"] == 1.0
    assert "ndcg_at_10" not in curve(Encoded(found.margins, found.same), MS)[0]


@pytest.mark.slow
@each("wanted", [0.6, 0.9, 0.95, 0.99])
def test_the_least_margin_that_reaches_the_wanted_agreement(wanted):
    found = encoded()
    choice = choose_margin(found, wanted, MS)

    def agreement(margin, part):
        return float((found.same[part] | (found.margins[part] < margin)).double().mean())

    def bound(margin):
        return 1 - largest_share(round(100 * (1 - agreement(margin, slice(0, None, 2)))), 100)

    assert bound(choice["margin"]) >= wanted or choice["margin"] == math.inf
    smaller = [float(margin) for margin in found.margins[0::2] if margin < choice["margin"]]
    assert all(bound(margin) < wanted for margin in smaller)
    others = slice(1, None, 2)
    assert choice["guarantee"]["agreement"] == pytest.approx(agreement(choice["margin"], others))
    assert choice["guarantee"]["num_rows"] == 100
    assert choice["share"] == pytest.approx(float((found.margins[others] < choice["margin"]).double().mean()))
    assert choice["cost"] == pytest.approx((1 + 10 * choice["share"]) / 10)


@pytest.mark.slow
def test_the_wanted_agreement_is_kept_on_new_queries():
    """Missed in one draw of 20 at most, and by three standard deviations more in as many draws as these."""
    new, num_draws = encoded(20_000, seed=1), 200
    margins = [choose_margin(encoded(1000, seed=seed), 0.95, MS)["margin"] for seed in range(2, 2 + num_draws)]
    missed = sum(float((new.same | (new.margins < margin)).double().mean()) < 0.95 for margin in margins)
    assert 0 < missed <= num_draws * 0.05 + 3 * (num_draws * 0.05 * 0.95) ** 0.5


@each(("num_queries", "expected"), [(600, (0.0, 0.0)), (20, (math.inf, 1.0))])
def test_a_student_that_agrees_asks_nobody_where_enough_queries_show_it(num_queries, expected):
    found = Encoded(torch.rand(num_queries), torch.ones(num_queries, dtype=torch.bool))
    choice = choose_margin(found, 0.99, MS)
    assert (choice["margin"], choice["share"]) == expected


@pytest.fixture
def folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    teacher, near = near_models(tmp_path)
    export_embedding_model(near, tmp_path / "student", teacher=teacher)
    (tmp_path / "queries.txt").write_text("\n".join(f"w{number} w{number + 2}" for number in range(10, 60)))
    (tmp_path / "one.txt").write_text("w10 w12")
    (tmp_path / "documents.txt").write_text("\n".join(f"w{number} w{number + 1}" for number in range(10, 60)))
    return tmp_path


WORDS = ["--queries", "queries.txt", "--documents", "documents.txt", "--teacher", "teacher"]


def test_the_command_draws_the_curve_and_names_a_margin(folders, capsys):
    words = ["cascade", "--model", "student", *WORDS, "--agreement", "0.8", "--output_dir", "out"]
    assert main(words) == 0
    told, lines = capsys.readouterr()
    assert "queries: rows: 50 queries, 50 documents; queries read: text; documents read: text\n" in lines
    results = json.loads((folders / "out" / "cascade.json").read_text())
    assert len(results["curves"]["queries"]) == len(SHARES)
    assert results["curves"]["queries"][-1]["agreement"] == 1.0
    assert results["curves"]["queries"][0]["agreement"] < 1
    assert results["choices"]["queries"]["guarantee"]["num_rows"] == 25
    assert results["choices"]["queries"]["macs"] == 1 + results["choices"]["queries"]["share"]  # of equal widths
    assert "to the teacher, %" in told
    assert f"margin {results['choices']['queries']['margin']:.4g} for 80.0%, chosen on every second query" in told
    assert str(folders) not in json.dumps(results)


@each(
    ("words", "message"),
    [
        (["--model", "student", "--teacher", "teacher"], "name queries and their documents, or rows of tasks"),
        (["--model", "student", *WORDS, "--data_dir", "."], "name queries and their documents, or rows of tasks"),
        (
            ["--model", "student", "--data_dir", ".", "--query_column", "x"],
            "query_column='x' has no part in this run: it belongs to queries; leave it out",
        ),
        (["--model", "student", "--data_dir", ".", "--eval_split", "test"], "eval_split='test' has no part in this"),
        (["--model", "student", *WORDS[:4]], "no run has recorded its teacher, a model; name it"),
        (["--model", "student", *WORDS, "--agreement", "1"], "agreement=1.0 is outside (0, 1)"),
        (["--model", "student", *WORDS, "--queries", "one.txt"], "has 1 queries and 50 documents; expected two"),
        ([*WORDS], "model='' is not a name; set it"),
    ],
)
def test_what_is_missing_is_told(folders, words, message, capsys):
    assert message in error_of(capsys, "cascade", *words)


@pytest.mark.slow
def test_a_space_of_its_own_is_refused(folders, capsys):
    whole, teacher = (load_embedding_model(folders / name) for name in ("near", "teacher"))
    export_embedding_model(whole, folders / "apart", teacher=teacher, has_own_space=True)
    assert "has vectors of another space than the teacher's, so they share no index" in error_of(
        capsys, "cascade", "--model", "apart", *WORDS
    )
