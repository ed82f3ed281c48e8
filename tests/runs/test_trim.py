"""`homodistil trim`, and distillations that begin with it."""

import json

import huggingface_hub
import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from tiny_embeddings import make_reranker, make_sentence_folder
from tiny_files import assert_same_weights, write_config, write_teacher, write_text
from tiny_models import make_teacher, randomized, tiny_config, tiny_tokenizer
from tiny_tokenizers import paragraphs, trained_tokenizer
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertModel, PreTrainedTokenizerFast

from homodistil_hf import export_student
from homodistil_hf.cli import main
from homodistil_hf.runs.config import parse_run, run_of
from homodistil_hf.runs.distill import distill as distill_settings
from homodistil_hf.runs.student import make_trainer
from homodistil_hf.runs.trim import TrimSource, plan_trimming
from homodistil_hf.vocabulary.selection import count_tokens


def trimmed(tmp_path, *words):
    teacher, text = tmp_path / "teacher", tmp_path / "train.txt"
    if not teacher.is_dir():
        write_teacher(teacher)
        write_text(text)
    return main(["trim", str(teacher), "--text", str(text), *words])


@pytest.mark.slow
def test_a_model_is_trimmed_to_a_folder(tmp_path, capsys):
    assert trimmed(tmp_path, "--vocabulary", "keep=40", "--output", str(tmp_path / "small")) == 0
    told = capsys.readouterr()
    assert "40 of 96 tokens stay" in told.err
    assert f"written to {tmp_path / 'small'}" in told.out
    model, tokenizer = (kind.from_pretrained(tmp_path / "small") for kind in (AutoModelForMaskedLM, AutoTokenizer))
    assert model.config.vocab_size == len(tokenizer) == 40
    facts = json.loads((tmp_path / "small" / "trimming.json").read_text())
    assert facts["source"]["vocabulary"] == "keep=40"
    assert str(tmp_path) not in json.dumps(facts)  # the folder may go to the Hub
    assert facts["trimming"]["after"] == {"num_tokens": 40, **facts["trimming"]["after"]}
    before, after = (facts["trimming"][when]["num_parameters"] for when in ("before", "after"))
    assert before - after == (96 - 40) * (32 + 1)
    assert trimmed(tmp_path, "--vocabulary", "keep=48", "--output", str(tmp_path / "small")) == 2
    assert "holds an export already; set overwrite to replace it" in capsys.readouterr().err
    assert trimmed(tmp_path, "--vocabulary", "keep=40", "--output", str(tmp_path / "small"), "--overwrite") == 0
    assert "40 tokens" in (tmp_path / "small" / "README.md").read_text()
    assert str(tmp_path) not in (tmp_path / "small" / "README.md").read_text()


def test_without_a_folder_it_is_only_told(tmp_path, capsys):
    assert trimmed(tmp_path, "--json") == 0  # min_count=5
    facts = json.loads(capsys.readouterr().out)
    assert facts["coverage"] == 1
    assert facts["growth"] == 0
    assert facts["after"]["num_tokens"] == 96


def test_coverage_is_the_share_of_the_text(tmp_path):
    write_teacher(tmp_path / "teacher")
    (tmp_path / "text.txt").write_text(" ".join(["w20"] * 60 + ["w21"] * 30 + ["w22"] * 10))
    source = TrimSource(str(tmp_path / "teacher"), "keep=7", [str(tmp_path / "text.txt")])
    plan = plan_trimming(source, print)
    assert plan.facts["coverage"] == pytest.approx(91 / 101)  # the separator behind the document is among them
    assert plan.kept[5:] == [20, 21]
    assert plan.trimmed_config.vocab_size == 7


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--vocabulary", "keep=4"], "vocabulary='keep=4' is out of reach, as 5 always stay; nearest valid: keep=5"),
        (["--vocabulary", "half"], "vocabulary='half' is no vocabulary; expected keep=16384"),
        (["--text", "nowhere.txt"], "text='nowhere.txt'"),
        (["--output", "."], "folder='.' is not empty and holds no export"),
        (["--tokenizer", "nowhere"], "tokenizer='nowhere' can't be loaded"),
    ],
)
def test_what_can_not_work_is_told(words, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert trimmed(tmp_path, *words) == 2
    assert message in capsys.readouterr().err


def test_what_can_not_be_met_is_told_before_text_is_read(tmp_path, capsys):
    assert trimmed(tmp_path, "--vocabulary", "keep=97", "--text", "nowhere.txt") == 2
    assert "out of reach, as there are no more; nearest valid: keep=96" in capsys.readouterr().err


def distill(path, *words):
    return main(["distill", str(path), "--disable_tqdm", "true", *words])


def test_text_to_evaluate_on_is_looked_for_before_the_teacher_is_trimmed(tmp_path, capsys):
    assert distill(write_config(tmp_path, vocabulary="keep=40", eval_data="nowhere.txt")) == 2
    assert "eval_data='nowhere.txt' does not exist" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_one_json_trims_a_teacher_and_distils_it(tmp_path, capsys):
    assert distill(write_config(tmp_path, vocabulary="keep=40")) == 0
    run = tmp_path / "run"
    assert "40 of 96 tokens stay" in capsys.readouterr().out
    student, tokenizer = (kind.from_pretrained(run / "student") for kind in (AutoModelForMaskedLM, AutoTokenizer))
    assert student.config.vocab_size == len(tokenizer) == 40
    results = json.loads((run / "results.json").read_text())
    assert results["settings"]["teacher"] == str(run / "trimmed_teacher")
    alone = {"teacher": str(run / "trimmed_teacher"), "output_dir": str(tmp_path / "alone")}
    assert distill(write_config(tmp_path, **alone)) == 0
    ours, theirs = ((folder / "student" / "model.safetensors").read_bytes() for folder in (run, tmp_path / "alone"))
    assert ours == theirs
    assert main(["verify", str(run / "student")]) == 0
    # whose folder's name says nothing
    assert "was made from `teacher, of a smaller vocabulary`" in (run / "student" / "README.md").read_text()


@pytest.mark.slow
def test_a_run_that_is_overwritten_is_not_gone_on_with(tmp_path, monkeypatch):
    """It may be stopped while its teacher is made, and then has no checkpoints but those of the run before."""
    assert distill(write_config(tmp_path, vocabulary="keep=40", save_steps=4)) == 0
    path = write_config(tmp_path, vocabulary="keep=40", overwrite_output_dir=True, hidden_weight=1.0)
    monkeypatch.setattr("homodistil_hf.runs.trim.save_model", raising(KeyboardInterrupt))
    assert distill(path) == 130
    assert not [*(tmp_path / "run").glob("checkpoint-*")]


def raising(error):
    def fail(*words, **settings):
        raise error

    return fail


@pytest.mark.slow
def test_a_teacher_is_further_pre_trained_before_it_is_trimmed(tmp_path):
    rounds = {"max_steps": 4, "per_device_train_batch_size": 8}
    assert distill(write_config(tmp_path, vocabulary="keep=40", further_pretraining=rounds)) == 0
    source = json.loads((tmp_path / "run" / "trimmed_teacher" / "trimming.json").read_text())["source"]
    assert source["model"] == "further_pretraining"
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "run" / "student").config.vocab_size == 40


@pytest.mark.slow
def test_a_plan_tells_what_a_smaller_vocabulary_brings(tmp_path, capsys):
    teacher, text = str(write_teacher(tmp_path / "teacher")), str(write_text(tmp_path / "train.txt"))
    words = ["plan", "--teacher", teacher, "--student", "macs=0.5"]
    assert main([*words, "--json"]) == 0
    without = json.loads(capsys.readouterr().out)
    assert main([*words, "--vocabulary", "keep=40", "--text", text, "--json"]) == 0
    costs = json.loads(capsys.readouterr().out)
    assert costs["teacher"] == without["teacher"]
    hidden_size = costs["student"]["plan"]["hidden_size"]
    saved = without["student"]["num_parameters"] - costs["student"]["num_parameters"]
    assert saved == (96 - 40) * (hidden_size + 1)
    assert costs["student"]["encoder_macs"] == without["student"]["encoder_macs"]
    assert costs["vocabulary"]["after"]["num_tokens"] == 40
    assert main([*words, "--vocabulary", "keep=40", "--text", text]) == 0
    assert "40 of 96 tokens stay" in capsys.readouterr().out
    assert main([*words, "--vocabulary", "keep=40"]) == 2
    assert "--vocabulary is chosen by the tokens of a text; give --text with it" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_run_goes_on_with_the_teacher_that_it_trimmed(tmp_path):
    path = write_config(tmp_path, vocabulary="keep=40")
    assert distill(path) == 0
    whole = (tmp_path / "run" / "student" / "model.safetensors").read_bytes()
    for step in (8, 12):
        for file in (tmp_path / "run" / f"checkpoint-{step}").iterdir():
            file.unlink()
        (tmp_path / "run" / f"checkpoint-{step}").rmdir()
    written = (tmp_path / "run" / "trimmed_teacher" / "trimming.json").stat().st_mtime_ns
    assert distill(path, "--resume_from_checkpoint", "last") == 0
    assert (tmp_path / "run" / "trimmed_teacher" / "trimming.json").stat().st_mtime_ns == written
    assert (tmp_path / "run" / "student" / "model.safetensors").read_bytes() == whole
    with pytest.raises(ValueError, match="vocabulary='keep=50' is not what the run in output_dir=.* began with"):
        distill_settings(parse_run([str(path), "--vocabulary", "keep=50", "--resume_from_checkpoint", "last"]), print)
    for checkpoint in (tmp_path / "run").glob("checkpoint-*"):
        (checkpoint / "optimizer.pt").write_bytes(b"")
    with pytest.raises(
        ValueError, match="checkpoint-12' can't be used: optimizer.pt is damaged"
    ):  # as without trimming
        distill_settings(parse_run([str(path), "--resume_from_checkpoint", "last"]), print)


@pytest.mark.slow
def test_a_run_with_a_trimmed_teacher_goes_on_at_a_checkpoint_that_is_elsewhere(tmp_path):
    path = write_config(tmp_path, vocabulary="keep=40")
    assert distill(path) == 0
    checkpoint, there = str(tmp_path / "run" / "checkpoint-8"), tmp_path / "elsewhere"
    assert distill(path, "--output_dir", str(there), "--resume_from_checkpoint", checkpoint) == 0
    assert not (there / "checkpoint-4").exists()
    assert_same_weights(there / "student", tmp_path / "run" / "student")
    words = ["--output_dir", str(tmp_path / "new"), "--resume_from_checkpoint", str(tmp_path / "nothing")]
    with pytest.raises(ValueError, match="resume_from_checkpoint=.*nothing' can't be used: there is no such folder"):
        distill_settings(parse_run([str(path), *words]), print)


def test_streams_and_single_trainers_do_not_pass_over_it_in_silence(tmp_path):
    values = json.loads(write_config(tmp_path, vocabulary="keep=40").read_text())
    with pytest.raises(ValueError, match="vocabulary='keep=40' goes before a run of `homodistil distill` alone"):
        make_trainer(run_of(values, "cell"), print)
    with pytest.raises(ValueError, match="vocabulary='keep=40' with streaming=True: tokens are counted before a run"):
        distill_settings(run_of(values | {"streaming": True}, "cell"), print)


def test_a_method_that_distils_no_teacher_has_no_vocabulary_to_trim(tmp_path):
    values = json.loads(write_config(tmp_path, vocabulary="keep=40").read_text())
    known = {name: values[name] for name in ("teacher", "train_data", "output_dir", "vocabulary")}
    with pytest.raises(ValueError, match="vocabulary='keep=40' has no place with method='self_distillation'"):
        run_of(known | {"method": "self_distillation"}, "cell")


def write_unigram_teacher(folder):
    tokenizer = trained_tokenizer("Unigram")
    make_teacher(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_characters_of_prompts_stay_whatever_the_text_has(tmp_path):
    folder = make_sentence_folder(tmp_path / "teacher", prompts={"query": "q%: "})
    tokenizer = trained_tokenizer("Unigram")
    encoder = randomized(BertModel(tiny_config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)))
    encoder.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (tmp_path / "text.txt").write_text("\n\n".join(["the teacher of a layer and the student of a layer"] * 20))
    source = TrimSource(str(folder), "coverage=0.99", [str(tmp_path / "text.txt")])
    of_prompt = set(tokenizer("q%: ", add_special_tokens=False)["input_ids"]) - {tokenizer.unk_token_id}
    assert of_prompt <= set((plan := plan_trimming(source, print)).kept)
    assert not of_prompt & plan.spare


def test_tokens_of_a_vocabulary_without_a_separator_are_counted():
    tokenizer = trained_tokenizer("BPE")
    alone = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="</s>", pad_token="<pad>", model_max_length=512
    )
    assert alone.sep_token_id is None
    documents = Dataset.from_dict({"text": paragraphs()[:20]})
    with_separator, without = (count_tokens(documents, one) for one in (tokenizer, alone))
    changed = np.flatnonzero(with_separator != without)
    assert changed.tolist() == [tokenizer.sep_token_id]
    assert without[tokenizer.sep_token_id] == 0


def test_a_unigram_vocabulary_is_trimmed_by_coverage_without_characters_of_other_text(tmp_path, capsys):
    teacher = write_unigram_teacher(tmp_path / "teacher")
    texts = ["the teacher of a layer and the student of a layer"] * 20 + ["heads"]
    (tmp_path / "text.txt").write_text("\n\n".join(texts))
    words = ["trim", str(teacher), "--text", str(tmp_path / "text.txt"), "--vocabulary", "coverage=0.99"]
    assert main([*words, "--output", str(tmp_path / "small")]) == 0
    told = capsys.readouterr()
    facts = json.loads((tmp_path / "small" / "trimming.json").read_text())["trimming"]
    assert facts["coverage"] >= 0.99
    assert facts["num_characters"] > 0
    assert facts["fallback"] == "<unk>"
    assert f"{facts['num_characters']} single characters go that the text never has" in told.out + told.err
    small, whole = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "small", teacher))
    assert len(small) == facts["after"]["num_tokens"] < 64
    assert small.tokenize(texts[0]) == whole.tokenize(texts[0])
    assert small.unk_token_id not in small("heads")["input_ids"]  # in its characters, if not whole
    assert small.unk_token_id in small("Quiz")["input_ids"]


@pytest.mark.slow
def test_a_plan_compares_several_sizes(tmp_path, capsys):
    teacher = write_unigram_teacher(tmp_path / "teacher")
    (tmp_path / "text.txt").write_text("\n\n".join(paragraphs()))
    words = ["plan", "--teacher", str(teacher), "--student", "macs=0.5", "--text", str(tmp_path / "text.txt")]
    assert main([*words, "--vocabulary", "keep=500", "--json"]) == 0
    sizes = json.loads(capsys.readouterr().out)["vocabulary"]["sizes"]
    assert list(sizes) == ["coverage=0.98", "coverage=0.99", "coverage=0.995", "coverage=0.999", "coverage=1"]
    tokens = [found["after"]["num_tokens"] for found in sizes.values()]
    assert tokens == sorted(tokens)
    assert tokens[0] < tokens[-1]
    for name, found in sizes.items():
        assert found["coverage"] >= float(name.partition("=")[2])
    assert sizes["coverage=1"]["growth"] == 0 < sizes["coverage=0.98"]["growth"]
    assert main([*words, "--vocabulary", "keep=500"]) == 0
    assert "vocabulary      tokens  of the text's tokens  longer text  parameters   MB" in capsys.readouterr().out


@pytest.mark.parametrize("words", [(), ("--text_column", "sentence1,sentence2")])
def test_both_texts_of_a_pair_are_counted(tmp_path, words, capsys):
    make_teacher("sequence_classification", num_labels=2).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    rows = [{"sentence1": "w5 w6", "sentence2": "w70 w71", "label": 1, "id": row} for row in range(8)]
    Dataset.from_list(rows).to_csv(tmp_path / "pairs.csv")
    asked = ["trim", str(tmp_path / "teacher"), "--text", str(tmp_path / "pairs.csv"), *words]
    assert main([*asked, "--output", str(tmp_path / "small")]) == 0
    assert "read: sentence1, sentence2; not read: label, id" in capsys.readouterr().err
    assert {"w5", "w70"} <= AutoTokenizer.from_pretrained(tmp_path / "small").get_vocab().keys()


def test_text_of_lines_is_read_beside_a_classifier_too(tmp_path, capsys):
    make_teacher("sequence_classification", num_labels=2).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    assert main(["trim", str(tmp_path / "teacher"), "--text", str(write_text(tmp_path / "train.txt"))]) == 0
    assert "read: text" in capsys.readouterr().err


def trimmed_alone(tmp_path, folder, text, *words):
    return main(["trim", str(folder), "--text", str(text), "--output", str(tmp_path / "small"), *words])


def test_a_reranker_keeps_what_stands_behind_its_score(tmp_path, capsys):
    folder = make_reranker(tmp_path / "reranker")
    (folder / "config_sentence_transformers.json").write_text('{"activation_fn": "torch.nn.modules.linear.Identity"}')
    triplets = [{"query": "w5 w6", "positive": "w70", "negative": "w8", "id": row} for row in range(8)]
    Dataset.from_list(triplets).to_json(tmp_path / "triplets.jsonl")
    assert trimmed_alone(tmp_path, folder, tmp_path / "triplets.jsonl") == 0
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert config["sentence_transformers"] == {"activation_fn": "torch.nn.modules.linear.Identity"}
    assert {"w5", "w70", "w8"} <= AutoTokenizer.from_pretrained(tmp_path / "small").get_vocab().keys()


def test_words_of_tags_are_counted(tmp_path):
    folder = write_teacher(tmp_path / "tagger", task="token_classification")
    Dataset.from_list([{"tokens": ["w5", "w70"], "tags": [0, 1]}] * 8).to_json(tmp_path / "tags.jsonl")
    assert trimmed_alone(tmp_path, folder, tmp_path / "tags.jsonl") == 0
    assert "w70" in AutoTokenizer.from_pretrained(tmp_path / "small").get_vocab()


def test_a_file_of_half_precision_stays_one(tmp_path, capsys):
    folder, text = tmp_path / "half", write_text(tmp_path / "train.txt")
    make_teacher().half().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    assert trimmed_alone(tmp_path, folder, text, "--vocabulary", "keep=40") == 0
    before, after = ((place / "model.safetensors").stat().st_size for place in (folder, tmp_path / "small"))
    trimming = json.loads((tmp_path / "small" / "trimming.json").read_text())["trimming"]
    saved = trimming["before"]["size_bytes"] - trimming["after"]["size_bytes"]
    assert saved == 2 * (96 - 40) * (32 + 1)
    assert before - after == pytest.approx(saved, abs=600)  # beside the files' headers


def test_an_embedding_model_of_half_precision_stays_one(tmp_path):
    encoder, text = randomized(BertModel(tiny_config())).half(), write_text(tmp_path / "train.txt")
    folder = make_sentence_folder(tmp_path / "half", encoder=encoder)
    assert trimmed_alone(tmp_path, folder, text, "--vocabulary", "keep=40") == 0
    trimming = json.loads((tmp_path / "small" / "trimming.json").read_text())["trimming"]
    assert trimming["before"]["size_bytes"] == 2 * trimming["before"]["num_parameters"]
    assert {tensor.dtype for tensor in load_file(tmp_path / "small" / "model.safetensors").values()} == {torch.float16}


def test_a_compact_export_stays_one_that_loads_alone(tmp_path):
    compact = export_student(make_teacher(), tmp_path / "compact", "compact", tokenizer=tiny_tokenizer())
    assert trimmed_alone(tmp_path, compact, write_text(tmp_path / "train.txt"), "--vocabulary", "keep=40") == 0
    assert (
        {file.name for file in compact.glob("*.py")}
        == {file.name for file in (tmp_path / "small").glob("*.py")}
        != set()
    )


def test_a_nested_students_sizes_are_not_lost(tmp_path, capsys):
    folder = write_teacher(tmp_path / "nested")
    (folder / "nested.json").write_text("{}")
    assert trimmed_alone(tmp_path, folder, write_text(tmp_path / "train.txt")) == 2
    assert "is a nested student, whose smaller sizes would be lost: write one" in capsys.readouterr().err


def test_a_path_may_be_written_in_several_ways(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_teacher(tmp_path / "teacher")
    found = [
        TrimSource(name, "keep=40", ["train.txt"]).identity()
        for name in ("teacher", "./teacher", str(tmp_path / "teacher"))
    ]
    assert found[0] == found[1] == found[2]
    assert found[0] != TrimSource("teacher", "keep=40", ["train.txt"], "content").identity()


@pytest.mark.parametrize("texts", [["w5 w6", "", "w70 w71"] * 4, ["w5 w6", "w70 w71"] * 4])
@pytest.mark.parametrize("task", ["question_answering", "token_classification"])
def test_a_corpus_may_stand_beside_a_model_of_a_task(tmp_path, task, texts):
    folder = write_teacher(tmp_path / "model", task=task)
    Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "corpus.parquet")
    assert trimmed_alone(tmp_path, folder, tmp_path / "corpus.parquet") == 0
    assert "w70" in AutoTokenizer.from_pretrained(tmp_path / "small").get_vocab()


def test_rows_that_are_neither_a_tasks_nor_a_corpus_are_refused_by_their_own_fault(tmp_path, capsys):
    make_teacher("sequence_classification", num_labels=2).save_pretrained(tmp_path / "teacher")
    tiny_tokenizer().save_pretrained(tmp_path / "teacher")
    rows = [{"sentence1": "w5", "sentence2": "w70" if row else "", "label": 1} for row in range(8)]
    Dataset.from_list(rows).to_json(tmp_path / "pairs.jsonl")
    assert trimmed_alone(tmp_path, tmp_path / "teacher", tmp_path / "pairs.jsonl") == 2
    assert "text has 1 row without 'sentence2', the first is row 1; drop them" in capsys.readouterr().err
