"""Runs of embedding models and rerankers: found by their folder, run, described, resumed."""

import json
import re
from pathlib import Path

import pytest
import torch
from commands import error_of
from datasets import Dataset
from huggingface_hub.errors import LocalEntryNotFoundError
from rows import each
from task_rows import RANKED, rows_of_kind, write_kind
from tiny_embeddings import make_reranker, make_rows, make_sentence_folder
from tiny_files import assert_family_resumed_alike, assert_resumed_alike, change_json, write_config
from tiny_trainers import QUARTER, SIXTEENTH

from homodistil_hf.cli import main
from homodistil_hf.embedding import model as embedding_model
from homodistil_hf.embedding import trainer
from homodistil_hf.embedding.evaluate import QUERIES
from homodistil_hf.embedding.model import load_embedding_model, pooled
from homodistil_hf.embedding.trainer import EmbeddingDistilArguments, EmbeddingDistilTrainer
from homodistil_hf.export.facts import read_facts
from homodistil_hf.files import model_files
from homodistil_hf.models import loading
from homodistil_hf.models.cost import model_facts
from homodistil_hf.models.loading import load_encoder
from homodistil_hf.runs import embedding
from homodistil_hf.runs.config import help_of, parse_run, run_of
from homodistil_hf.runs.distill import load_start
from homodistil_hf.runs.distill import run as run_distillation
from homodistil_hf.runs.embedding import held_out_texts
from homodistil_hf.runs.kinds import method_for, run_kind_of
from homodistil_hf.runs.settings import RunArguments


@pytest.fixture
def config(tmp_path):
    def write(**settings):
        folder = tmp_path / "embeddings"
        if not folder.is_dir():
            make_sentence_folder(folder)
        given = {"teacher": str(folder), "max_seq_length": 12, "num_scoring_batches": 2}
        return str(write_config(tmp_path, **given | settings))

    return write


@pytest.mark.slow
def test_a_folder_of_sentence_transformers_is_found_and_narrowed(config, tmp_path, capsys):
    assert main(["distill", config(save_steps=6, save_strategy="steps")]) == 0
    told = capsys.readouterr().out
    line = "embeddings is an embedding model of 32 channels; rows: paragraphs of text, 12 tokens at most"
    assert told.splitlines()[0].endswith(line)
    assert re.search(r"rows: \d+ to train on, \d+ held out, \d+ tokens at the median; read: text\n", told)
    assert "SentenceTransformer(" in told
    assert "in the teacher's index" in told
    student = load_embedding_model(tmp_path / "run" / "student")
    assert (student.encoder.config.hidden_size, student.dimension) == (16, 32)
    cuts = [json.loads((tmp_path / name / "tokenizer.json").read_text()) for name in ("embeddings", "run/student")]
    assert cuts[0]["truncation"] == cuts[1]["truncation"]
    assert cuts[0]["padding"] == cuts[1]["padding"]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert 0 < results["evaluation"]["cosine"] < 1
    assert [found["name"] for found in results["models"]] == ["teacher", "student"]
    assert results["models"][1]["num_parameters"] < results["models"][0]["num_parameters"]
    assert_resumed_alike(["distill", config(save_steps=6, save_strategy="steps")], tmp_path / "run", "checkpoint-6")
    capsys.readouterr()
    assert "is an embedding model without a head; expected task=embedding" in error_of(
        capsys, "evaluate", str(tmp_path / "run"), "--task", "classes", "--eval_data", "rows.csv"
    )
    assert main(["export", str(tmp_path / "run" / "checkpoint-6"), "--output", str(tmp_path / "early")]) == 2
    told = capsys.readouterr().err
    assert "is of an encoder without a head: resume the run, which exports its student at its end" in told


@pytest.mark.slow
def test_facts_have_the_length_that_the_model_reads(config, tmp_path, caplog):
    path = config(max_seq_length=30, max_steps=2)
    change_json(tmp_path / "embeddings" / "sentence_bert_config.json", max_seq_length=10)
    assert main(["distill", path]) == 0
    assert read_facts(tmp_path / "run" / "student")["data"]["max_tokens"] == 10
    assert (
        "max_seq_length=30: rows have 10 tokens at most, as the teacher's settings have a max_seq_length"
        in caplog.text
    )


@pytest.mark.slow
def test_a_space_of_its_own_is_described_without_the_teachers_measures(config, tmp_path, capsys):
    assert main(["distill", config(output="student", max_steps=2)]) == 0
    header = next(line for line in capsys.readouterr().out.splitlines() if "parameters" in line)
    assert "10 nearest" in header
    assert "index" not in header


def test_the_hub_is_asked_with_the_token(config, monkeypatch, capsys):
    asked = []

    def download(name, **settings):
        asked.append(settings["token"])
        raise TimeoutError("no answer")

    monkeypatch.setattr(embedding_model, "snapshot_download", download)
    assert main(["distill", config(teacher="me/vectors", method="embedding", hub_token="hf_abc")]) == 2
    assert asked == ["hf_abc"]
    assert "hf_abc" not in capsys.readouterr().err


@each(
    ("make", "asked", "kind"),
    [
        (make_sentence_folder, ["config.json", "modules.json", "config_sentence_transformers.json"], "embedding"),
        (make_reranker, ["config.json"], "reranker"),
        (lambda folder: None, ["config.json"], None),
    ],
)
def test_the_kind_of_a_model_of_the_hub_is_found(tmp_path, monkeypatch, capsys, make, asked, kind):
    make(tmp_path / "model")
    requests = []

    def download(repo, name, **settings):
        requests.append(name)
        if (file := tmp_path / "model" / name).is_file():
            return str(file)
        raise LocalEntryNotFoundError("not in the cache, and no Hub answers")

    monkeypatch.setattr(model_files, "hf_hub_download", download)
    monkeypatch.setattr(loading, "cached_file", lambda repo, name, **settings: str(tmp_path / "model" / name))
    model_files._file_on_hub.cache_clear()
    assert [method_for(f"me/{kind}", {"text_column": "q,d"}) for _ in range(2)] == [kind, kind]
    assert requests == asked  # once
    if kind == "embedding":
        assert main(["plan", "--teacher", f"me/{kind}", "--student", "macs=0.5"]) == 0
        assert "teacher: BertModel, 2 layers" in capsys.readouterr().out
    model_files._file_on_hub.cache_clear()
    requests.clear()
    help_of(["--teacher", f"me/{kind}"])
    assert requests == []


@each("weight", [0.0, float("inf"), float("nan")])
def test_weights_of_sources_are_finite(weight):
    with pytest.raises(
        ValueError, match=r"^train_weights=\[(0.0|inf|nan)\]: expected finite numbers > 0; leave sources"
    ):
        RunArguments(teacher="folder", train_data=["a.txt"], train_weights=[weight])


@pytest.mark.slow
@each(
    ("settings", "message"),
    [
        ({"streaming": True, "max_steps": -1}, "a stream has no length; set max_steps"),
        ({"train_prompts": ["query", "x"]}, "train_prompts=['query', 'x'] has 2 entries for 1 of train_data"),
        ({"train_prompts": ["query"]}, "train_prompts has 'query', but the teacher's prompts are none"),
        ({"per_device_train_batch_size": 4096}, "rows, fewer than the 4096 of a step; lower per_device_train_batch"),
        ({"method": "homodistil", "teacher": "./x", "train_weights": [1.0]}, "has no place with method='homodistil'"),
        ({"vector_wight": 1}, "unknown key 'vector_wight' (value 1); nearest valid: 'vector_weight'"),
        ({"further_pretraining": {}}, "further_pretraining={} has no place with method='embedding'; leave it out"),
        ({"train_sampling_strategy": "group_by_length"}, "has no place with method='embedding'; leave it out"),
        ({"layers": 1}, "unknown key 'layers'"),
        (
            {"streaming": True, "max_steps": 4, "eval_data": []},
            "has no text to train on beside what is held out; name",
        ),
        (
            {"train_prompts": ["query"]},
            'in its config_sentence_transformers.json, such as {"prompts": {"query": "query: "}}',
        ),
    ],
)
def test_what_has_no_place_is_refused(config, settings, message, capsys):
    assert message in error_of(capsys, "distill", config(**settings))


@pytest.fixture
def pairs_config(tmp_path):
    folder = make_reranker(tmp_path / "reranker")

    def write(**settings):
        return str(write_config(tmp_path, **{"teacher": str(folder), "text_column": "q,d"} | settings))

    return write


@pytest.mark.slow
@each(
    ("columns", "given", "is_reranker"),
    [
        (("query", "passage"), {}, True),
        (("query", "passage", "label"), {}, True),
        (("Query", "Passage"), {}, True),
        (("sentence1", "sentence2"), {}, True),
        (("sentence1", "sentence2", "score"), {}, False),
        (("text", "score"), {}, False),
        (("text",), {}, False),
        (("q", "d"), {"text_column": "q,d"}, True),
        (("q", "d", "score"), {"text_columns": ["q", "d"]}, False),
        (("q", "d"), {"text_column": "q,"}, False),
        (("question", "passage", "label"), {"text_columns": ["question", "passage"]}, True),
        (("query", "passage", "clicks"), {"label_column": "clicks"}, False),
        (("query", "passage"), {"method": "homodistil"}, False),
    ],
)
def test_what_a_model_of_one_output_is_follows_from_the_rows(pairs_config, tmp_path, columns, given, is_reranker):
    teacher = json.loads(Path(pairs_config()).read_text())["teacher"]
    rows = tmp_path / "rows.parquet"
    Dataset.from_dict({name: ["w9 w10"] for name in columns}).to_parquet(rows)
    found = method_for(teacher, {"train_data": [str(rows)], **given})
    assert (found == "reranker") is is_reranker


@pytest.mark.slow
def test_triplets_are_a_rerankers_rows(tmp_path):
    triplets = [{"query": f"w{n} w5", "positive": f"w7 w{n}", "negative": f"w8 w{n}", "id": n} for n in range(10, 50)]
    settings = write_kind(tmp_path, RANKED)
    Dataset.from_list(triplets).to_json(tmp_path / "triplets.jsonl")
    settings |= {"train_data": [str(tmp_path / "triplets.jsonl")], "max_steps": 1}
    results = run_distillation(run_of(settings, "settings"), (lines := []).append)
    made = "each 'query' makes pairs with its 'positive' (label 1), 'negative' (label 0)"
    assert lines[0].endswith(f"triplets.jsonl': {made}; read: query, positive, negative; not read: id")
    assert (results["rows"]["num_train_rows"], results["rows"]["num_eval_rows"]) == (72, 8)
    assert results["rows"]["label_columns"] == ["label"]


@pytest.mark.slow
def test_labels_of_any_column_and_of_other_rows(tmp_path):
    settings = write_kind(tmp_path, RANKED) | {"max_steps": 1, "save_strategy": "no", "max_seq_length": 12}
    clicks = rows_of_kind(RANKED).rename_columns({"relevance": "clicks"})
    clicks.select(range(30)).to_csv(tmp_path / "held.csv")
    clicks.to_parquet(tmp_path / "rows.parquet")
    settings |= {"eval_data": [str(tmp_path / "held.csv")]}
    unnamed = settings | {"output_dir": str(tmp_path / "unnamed")}
    run_distillation(run_of(unnamed, "it"), (lines := []).append)
    assert lines[0].endswith("no labels (if there are some in clicks: method=reranker and label_column)")
    named = settings | {"method": "reranker", "label_column": "clicks"}
    results = run_distillation(run_of(named, "settings"), lambda line: None)
    assert results["rows"]["max_seq_length"] == 12
    assert results["models"][1]["ndcg_at_10"] > 0


def test_a_folder_is_planned_without_the_head_that_its_file_names(config, tmp_path, capsys):
    config()
    change_json(tmp_path / "embeddings" / "config.json", architectures=["BertForMaskedLM"])
    assert main(["plan", "--teacher", str(tmp_path / "embeddings"), "--student", "macs=0.5"]) == 0
    assert "teacher: BertModel, 2 layers" in capsys.readouterr().out


@pytest.mark.slow
def test_a_list_of_students_is_a_family(config, tmp_path, capsys):
    words = ["distill", config(student=[QUARTER, SIXTEENTH], output=7)]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "member 2 of 2" in told
    folders = sorted(path.name for path in (tmp_path / "run").iterdir() if path.is_dir())
    assert f"{folders[1]}/student')" in told
    models = [load_embedding_model(tmp_path / "run" / folder / "student") for folder in folders]
    assert [model.encoder.config.hidden_size for model in models] == [16, 8]
    assert [model.dimension for model in models] == [7, 7]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [found["name"] for found in results["models"]] == ["teacher", *folders]
    (pairings,) = results["space"]["tasks"].values()
    assert list(pairings) == list(pairings["teacher"]) == ["teacher", *folders]
    assert pairings["teacher"]["teacher"]["first_hits"] == 1.0
    assert f"index by {folders[1]}" in told
    for file in (tmp_path / "run" / folders[0] / "student" / "README.md", tmp_path / "run" / "report.html"):
        assert f"index by {folders[1]}" in file.read_text(encoding="utf-8")
    words = ["export", str(tmp_path / "run" / folders[1]), "--format", "pair", "--output", str(tmp_path / "pair")]
    assert main([*words, "--teacher", str(tmp_path / "run" / folders[0])]) == 0
    vectors = json.loads((tmp_path / "pair" / "facts.json").read_text())["probe"]["vectors"]
    for route, model in zip(("document", "query"), models, strict=True):
        assert torch.allclose(torch.tensor(vectors[route][0]), model.encode(["The cat sat on the mat."])[0], atol=1e-6)
    first, second = ((tmp_path / "run" / folder / "student" / "axes.safetensors").read_bytes() for folder in folders)
    assert first == second  # one space
    command = ["distill", config(student=[QUARTER, SIXTEENTH], output=7)]
    assert_family_resumed_alike(command, tmp_path / "run" / folders[1])
    assert main(["verify", str(tmp_path / "run" / folders[1] / "student")]) == 0


def test_a_familys_queries_are_of_all_sources(config, tmp_path):
    for name, start in (("a", 10), ("b", 20)):
        lines = [f"w{start} w{start + 1} text that is long enough {number}" for number in range(20 * QUERIES)]
        (tmp_path / f"{name}.txt").write_text("\n\n".join(lines))
    settings = parse_run([config(train_data=[str(tmp_path / f"{name}.txt") for name in "ab"], eval_data=[])])
    found = held_out_texts(settings.run, embedding.check_inputs(settings).teacher)
    assert [text.split()[0] for text in found] == ["w10"] * QUERIES + ["w20"] * QUERIES


@pytest.mark.slow
def test_a_family_begins_where_the_member_before_ended(config, tmp_path):
    assert main(["distill", config(student=[QUARTER, SIXTEENTH], max_steps=1, learning_rate=1e-12)]) == 0
    folders = sorted(path for path in (tmp_path / "run").iterdir() if path.is_dir())
    start = load_start(folders[0])
    teacher = load_embedding_model(tmp_path / "embeddings")
    state = json.loads((folders[0] / "settings.json").read_text())
    assert state["student"] == json.dumps(QUARTER) or state["student"] == QUARTER
    training = EmbeddingDistilArguments(
        str(tmp_path / "again"), student=QUARTER, report_to="none", use_cpu=True, hidden_weight=1.0
    )
    trainer = EmbeddingDistilTrainer(start, training, teacher_model=teacher, train_dataset=make_rows())
    exported = load_embedding_model(folders[0] / "student")
    inputs = exported.tokenize(["w7 w8 w9", "w10"])
    trainer.model.eval()
    with torch.no_grad():
        states = trainer.model(**{name: inputs[name] for name in ("input_ids", "attention_mask")}).last_hidden_state
        pooling = trainer.embedding_model.settings.pooling
        found = trainer.distillation.mapped_and_own(pooled(states, inputs["attention_mask"], pooling))[1]
    assert torch.allclose(found, exported.encode(["w7 w8 w9", "w10"]), atol=1e-5)


@pytest.mark.slow
def test_a_plain_family_keeps_the_hidden_size_and_has_no_map(config, tmp_path):
    assert main(["distill", config(student=["macs=0.95", "macs=0.88"], max_steps=2, width_multiple=1), "--plain"]) == 0
    members = [load_embedding_model(folder / "student") for folder in sorted((tmp_path / "run").glob("?-*"))]
    assert [(member.encoder.config.hidden_size, member.dense) for member in members] == [(32, ()), (32, ())]
    ffn_sizes = [member.encoder.config.intermediate_size for member in members]
    assert 64 > ffn_sizes[0] > ffn_sizes[1]


@pytest.mark.slow
def test_a_family_of_a_trimmed_teacher_goes_on_where_it_was(config, tmp_path, capsys):
    words = ["distill", config(vocabulary="keep=64", student=[QUARTER, SIXTEENTH])]
    assert main(words) == 0
    first, second = sorted(path for path in (tmp_path / "run").iterdir() if path.name[:1] in "12")
    told = json.loads((first / "settings.json").read_text())
    assert told["teacher"].endswith("trimmed_teacher")
    assert "vocabulary" not in told
    before = (first / "results.json").stat().st_mtime_ns
    (second / "results.json").unlink()
    capsys.readouterr()
    assert main([*words, "--resume_from_checkpoint", "last"]) == 0
    assert "member 1 of 2" not in capsys.readouterr().out
    assert (first / "results.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_one_json_trims_a_teacher_and_narrows_it(config, tmp_path, capsys):
    assert main(["distill", config(vocabulary="keep=64")]) == 0
    assert "64 of 96 tokens stay" in capsys.readouterr().out
    trimmed = load_embedding_model(tmp_path / "run" / "trimmed_teacher")
    student = load_embedding_model(tmp_path / "run" / "student")
    assert trimmed.encoder.config.vocab_size == student.encoder.config.vocab_size == len(student.tokenizer) == 64
    whole = load_embedding_model(tmp_path / "embeddings")
    texts = [" ".join(sorted(trimmed.tokenizer.get_vocab(), key=str)[-3:]), ""]
    assert trimmed.tokenizer.unk_token_id not in trimmed.tokenize(texts)["input_ids"]
    assert torch.allclose(trimmed.encode(texts), whole.encode(texts), atol=1e-6)
    assert main(["verify", str(tmp_path / "run" / "student")]) == 0


def test_sources_have_prompts_and_weights(config, tmp_path):
    prompts = {"query": "w90 ", "document": "w91 "}
    make_sentence_folder(tmp_path / "prompted", prompts=prompts, default_prompt_name="document")
    for name, words in (("a", "w5 w6 w7 w8"), ("b", "w15 w16 w17 w18"), ("c", "w25 w26 w27 w28")):
        (tmp_path / f"{name}.txt").write_text("\n\n".join(f"{words} w{index} w{index}" for index in range(30, 60)))
    sources = [str(tmp_path / f"{name}.txt") for name in "abc"]
    given = {"train_prompts": ["query", "document", ""], "train_weights": [2, 1, 0.5]}
    given |= {"per_device_train_batch_size": 1}
    settings = parse_run([config(teacher=str(tmp_path / "prompted"), train_data=sources, **given)])
    run = run_kind_of(settings)
    rows = run.rows(settings, run.inputs(settings), print).train["input_ids"][:]
    counts = {(ids[1], ids[2]): sum(other[1:3] == ids[1:3] for other in rows) for ids in rows}
    assert counts == {(90, 5): 60, (91, 15): 30, (25, 26): 15}


@pytest.mark.slow
def test_a_stream_is_read_as_it_comes(config, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "NUM_FIT_TEXTS", 64)  # a stream goes on until there are so many
    settings = {"streaming": True, "max_steps": 6, "output": 7, "save_steps": 3, "save_strategy": "steps"}
    assert main(["distill", config(**settings)]) == 0
    assert_resumed_alike(["distill", config(**settings)], tmp_path / "run", "checkpoint-3")


def test_an_embedding_model_is_trimmed_alone(tmp_path, capsys):
    folder = make_sentence_folder(tmp_path / "embeddings", dense=5, prompts={"query": "w5 "})
    (tmp_path / "a.txt").write_text("w10 w11 w12 w13")
    words = ["trim", str(folder), "--text", str(tmp_path / "a.txt"), "--vocabulary", "min_count=1"]
    assert main([*words, "--output", str(tmp_path / "trimmed")]) == 0
    both = [load_embedding_model(each) for each in (folder, tmp_path / "trimmed")]
    assert both[1].encoder.config.vocab_size < 20
    assert torch.allclose(*(model.encode(["w10 w13", "w12"]) for model in both), atol=1e-6)
    assert both[0].settings == both[1].settings


def test_prompts_stay_whole_and_text_is_read_as_the_model_reads_it(tmp_path):
    folder = make_sentence_folder(tmp_path / "embeddings", prompts={"query": "w70 w71 "}, default_prompt_name="query")
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 12, "do_lower_case": true}')
    (tmp_path / "a.txt").write_text("W10 W11 W12 W13")
    words = ["trim", str(folder), "--text", str(tmp_path / "a.txt"), "--vocabulary", "min_count=1"]
    assert main([*words, "--output", str(tmp_path / "trimmed")]) == 0
    vocabulary = load_embedding_model(tmp_path / "trimmed").tokenizer.get_vocab()
    assert {"w10", "w11", "w12", "w13", "w70", "w71"} <= set(vocabulary)
    assert len(vocabulary) < 20


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"output": "student"}])
def test_one_held_out_text_does_not_fail_the_run(config, tmp_path, capsys, settings):
    (tmp_path / "one.txt").write_text(" ".join(f"w{i}" for i in range(5, 15)))
    held_out = {"eval_data": str(tmp_path / "one.txt"), "eval_split": "train", "max_steps": 2}
    words = [word for name, value in settings.items() for word in (f"--{name}", value)]
    assert main(["distill", config(**held_out), *words]) == 0
    assert (tmp_path / "run" / "results.json").is_file()
    assert "SentenceTransformer(" in capsys.readouterr().out


@each("make", [make_sentence_folder, make_reranker])
def test_a_model_of_vectors_or_of_pairs_has_a_plan(tmp_path, make, capsys):
    teacher = make(tmp_path / "teacher")
    assert main(["plan", "--teacher", str(teacher), "--student", "macs=0.5", "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    loaded = load_embedding_model(teacher).encoder if make is make_sentence_folder else load_encoder(str(teacher))
    assert costs["teacher"]["architecture"] == type(loaded).__name__
    assert costs["teacher"]["num_encoder_parameters"] == model_facts(loaded)["num_encoder_parameters"]
    assert costs["teacher"]["encoder_macs"] == model_facts(loaded)["encoder_macs"]


def test_a_model_of_vectors_has_a_plan_of_its_vocabulary(tmp_path, capsys):
    teacher = make_sentence_folder(tmp_path / "teacher")
    (tmp_path / "text.txt").write_text("w7 w8 w9 w7 w7")
    words = ["plan", "--teacher", str(teacher), "--student", "macs=0.5", "--json"]
    assert main([*words, "--vocabulary", "keep=7", "--text", str(tmp_path / "text.txt")]) == 0
    assert json.loads(capsys.readouterr().out)["vocabulary"]["after"]["num_tokens"] == 7


@each(("make", "num_layers"), [(make_sentence_folder, 2), (make_reranker, 1)])
def test_layers_leave_below_the_limit_of_the_folders_method(tmp_path, monkeypatch, capsys, make, num_layers):
    monkeypatch.setattr("homodistil_hf.runs.plan.EMBEDDINGS_FEWER_LAYERS_BELOW", 0)
    folder = make(tmp_path / "teacher")
    (folder / "modules.json").touch()
    assert main(["plan", "--teacher", str(folder), "--student", "macs=0.25", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["student"]["num_hidden_layers"] == num_layers
