import io
import json
import re
import subprocess
import sys
from contextlib import suppress

import pytest
from commands import error_of
from rows import each
from tiny_files import assert_same_weights, write_config
from transformers import BertForMaskedLM

from homodistil_hf import __version__, cli
from homodistil_hf.cli import main
from homodistil_hf.files.caches import cache_folder
from homodistil_hf.files.checkpoints import file_digest
from homodistil_hf.homodistil_args import HomoDistilTrainingArguments
from homodistil_hf.runs import masked_words
from homodistil_hf.runs.config import help_of, parse_run
from homodistil_hf.runs.kinds import METHODS, run_kind_for
from homodistil_hf.runs.settings import RunArguments

COMMANDS = (
    *("distill", "plan", "export", "verify", "push", "report", "evaluate", "finetune", "prune", "demo", "cache"),
    *("cascade", "deploy"),
)
LINES_OF_A_SCREEN = 30


# help, version


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_a_screen_and_shows_an_example(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    if command == "distill":
        assert main([command, "--help"]) == 0
    else:
        with pytest.raises(SystemExit, match="0"):
            main([command, "--help"])
    text = capsys.readouterr().out
    assert f"homodistil {command} " in text.partition("usage:")[2].partition("\n")[2]
    assert len(text.splitlines()) <= LINES_OF_A_SCREEN


@each("encoding", ["ascii", "cp1252"])
@each("words", [["evaluate", "--help"], ["distill", "--help_all"]])
def test_help_is_printed_where_a_terminal_lacks_its_characters(encoding, words, monkeypatch):
    printed = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(printed, encoding=encoding, write_through=True))
    with suppress(SystemExit):
        main(words)
    assert b"?" in printed.getvalue()


@pytest.mark.parametrize("words", [["--help"], []])
def test_help_lists_every_command(words, capsys):
    assert main(words) == 0
    text = capsys.readouterr().out
    assert [command for command in COMMANDS if f"\n    {command} " not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name in cli.COMMANDS if cli.command_named(name).main_settings])
def test_help_names_settings_that_help_all_describes(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    short = capsys.readouterr().out
    assert main([command, "--help_all"]) == 0
    described = re.findall(r"^  (--\w+)", capsys.readouterr().out, re.M)
    assert [name for name in described if not re.search(rf"{name}\b", short)] == []
    _, _, further = short.partition(f"further settings (homodistil {command} --help_all): ")
    assert further
    assert [name for name in further.split() if re.search(rf"^  {name}\b", short, re.M)] == []


@each("method", METHODS)
def test_help_all_leaves_out_what_a_method_refuses(method):
    described = set(re.findall(r"^  --(\w+)", help_of(["--method", method]), re.M))
    kinds = run_kind_for(method).settings_classes(method)
    assert "output_dir" in described
    assert not described & {"deepspeed", *(name for kind in kinds for name in getattr(kind, "no_part", ()))}


def test_help_shows_defaults(capsys):
    described = " ".join(help_of([]).split())
    assert "--kl_weight X Factor ≥ 0 of KL(teacher ‖ student), nats a prediction. (default: 1.0)" in described
    assert main(["distill", "--help"]) == 0
    for name, default in re.findall(r"--(\w+) .*default: (\S+?)[.)]\n", capsys.readouterr().out):
        entry = HomoDistilTrainingArguments.__dataclass_fields__.get(name) or RunArguments.__dataclass_fields__[name]
        assert str(entry.default).lower() == default or entry.default is None


COLLECTS = """
import gc, sys
from homodistil_hf.cli import main
called = []
sys.setprofile(lambda frame, event, _: called.append(gc.isenabled()) if frame.f_code.co_name == "student_in" else None)
main(["verify", "nothing"])
sys.setprofile(None)
assert "torch" in sys.modules and called and all(called) and gc.isenabled()
"""


@pytest.mark.slow
def test_garbage_is_collected_while_a_command_works(forked_python, tmp_path):
    forked_python.run([sys.executable, "-c", COLLECTS], cwd=tmp_path, check=True)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"homodistil_hf {__version__}"


@each("words", [["distil"], ["plan", "--teacher", "x"], ["plan", "--studnt", "x"]])
def test_wrong_words_are_told_without_a_traceback(words, capsys):
    assert re.search("--help|nearest valid: 'distill'", error_of(capsys, *words))


@each(
    ("words", "message"),
    [
        (["plan", "--teacher", "x", "--student", "y", "--jsn"], "unknown key --jsn; nearest valid: --json; see"),
        (
            ["plan", "--teacher", "x", "--student", '["macs=0.5", 0.25]'],
            "--student names 2 sizes; plan one of them at a time, such as macs=0.5",
        ),
        (["plan", "--teacher", "x", "--latency_ms", "5"], "unknown key --latency_ms; nearest valid: --student"),
        (["plan", "--teacher", "x", "--params", "14M"], "unknown key --params; nearest valid: --student"),
        (["evaluate", "x", "--sede=1"], "unknown key --sede; nearest valid: --seeds; see homodistil"),
        (["trim", "--model=x", "--text", "y"], "what stands first has no key: homodistil trim TEACHER …; see"),
        (["push", "x", "--repo-id", "y"], "what stands first has no key: homodistil push FOLDER NAME …"),
        (["evaluate", "--model", "x"], "what stands first has no key: homodistil evaluate MODEL …"),
        (["distill", "--config", "x"], "what stands first has no key: homodistil distill CONFIG.json …"),
        (["finetune", "--config=x"], "what stands first has no key: homodistil finetune CONFIG.json …"),
        (["verify", "x", "--deep"], "unknown key --deep; see homodistil verify --help"),
        (["cache", "--clar"], "unknown key --clar; nearest valid: --clear"),
        (["verify", "x", "y"], "unexpected argument 'y'; see homodistil verify --help"),
        (["verify", "x", "true"], "unexpected argument 'true'; a key without VALUE in the help takes none"),
        (["cache", "--clear=no"], "argument --clear: ignored explicit argument 'no'; see homodistil cache --help"),
    ],
)
def test_wrong_flags_are_told_with_a_remedy(words, message, capsys):
    assert message in error_of(capsys, *words)


def test_a_switch_leaves_the_next_word_alone(tmp_path, capsys):
    told = error_of(capsys, "export", "--overwrite", tmp_path / "nowhere", "--output", tmp_path / "student")
    assert str(tmp_path / "nowhere") in told


# settings


def test_flags_override_the_file(folder):
    settings = parse_run([str(folder / "config.json"), "--max_steps", "7", "--learning-rate=0.01", "--bf16", "false"])
    assert (settings.training.max_steps, settings.training.learning_rate, settings.training.bf16) == (7, 0.01, False)
    assert settings.training.logging_steps == 4
    assert settings.run.max_seq_length == 16


@pytest.mark.slow
@pytest.mark.parametrize(("most_tokens", "expected"), [(512, 32), (24, 24)])
def test_a_default_length_is_lowered_to_what_the_teacher_reads(tmp_path, most_tokens, expected):
    config = write_config(tmp_path, max_seq_length=None, max_steps=1)
    path = tmp_path / "teacher" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_max_length": most_tokens}))
    assert main(["distill", str(config)]) == 0
    for name in ("results.json", "settings.json"):
        found = json.loads((tmp_path / "run" / name).read_text())
        assert found.get("settings", found)["max_seq_length"] == expected


def test_settings_are_a_config_of_the_same_run(folder, tmp_path):
    first = parse_run([str(folder / "config.json"), "--kl_weight", "0.5", "--hub_token", "secret"])
    assert "hub_token" not in first.given
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(first.given))
    second = parse_run([str(path)])
    assert second.given == first.given
    assert second.run == first.run
    assert second.training.kl_weight == 0.5


@each(
    ("content", "message"),
    [
        ("{", "is no JSON: .* line 1, column 2"),
        ("[1, 2]", r"holds \[1, 2\]; expected a JSON object"),
        ('{"seed": 1, "seed": 2}', "has the key 'seed' more than once"),
        ('{"kl_weight": NaN}', "holds NaN, which is no JSON"),
        (b"\xff\xfe", "is no UTF-8 text"),
        ('{"max_step": 5}', r"unknown key 'max_step' \(value 5\); nearest valid: 'max_steps'"),
        ('{"max_steps": "5"}', "max_steps='5'; expected a whole number"),
        ('{"bf16": 1}', "bf16=1; expected true or false"),
        ('{"kl_weight": true}', "kl_weight=True; expected a number"),
        ('{"student": true}', "student=True; expected a string or null or a number"),
        ('{"train_data": ["a", 3]}', "expected a list, each item a string"),
        ('{"lr_scheduler_type": "cosin"}', "lr_scheduler_type='cosin'.* expected one of 'linear', 'cosine'"),
        ('{"importance_metric": "size"}', "expected one of 'sensitivity', 'magnitude'"),
    ],
)
def test_a_config_that_is_wrong(content, message, tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        parse_run([str(path)])
    assert str(path) in str(error.value)


@each(
    ("flags", "message"),
    [
        (["--max-stepz=5"], "unknown key --max-stepz; nearest valid: --max_steps"),
        (["--max_steps", "many"], "max_steps.* invalid int value: 'many'"),
        (["more.json"], "unexpected argument 'more.json'; expected CONFIG.json first"),
        (["--output_dir", ""], "output_dir is not set"),
        (["--teacher", ""], "teacher='' is not set; name one in CONFIG or as --teacher"),
        (["--max_eval_blocks", "0"], "max_eval_blocks=0 is not a whole number of at least 1"),
    ],
)
def test_flags_that_are_wrong(flags, message, folder):
    with pytest.raises(ValueError, match=message):
        parse_run([str(folder / "config.json"), *flags])


# every error before training starts


@each(
    ("settings", "message"),
    [
        (
            {"student": {"hidden_size": 15, "num_attention_heads": 2, "intermediate_size": 32}},
            "student hidden_size=15 is not divisible by num_attention_heads=2; nearest valid: 14",
        ),
        (
            {"pruning_start_fraction": 0.7, "pruning_end_fraction": 0.5},
            "pruning_start_fraction=0.7 is above pruning_end_fraction=0.5; pruning ends after its start",
        ),
        ({"streaming": True, "max_steps": -1}, "a stream has no length; set max_steps"),
        ({"resume_from_checkpoint": "last"}, "resume_from_checkpoint='last' asks for the last checkpoint"),
    ],
)
def test_a_run_that_can_not_work(settings, message, folder, tmp_path, capsys, never_trains):
    values = json.loads((folder / "config.json").read_text()) | {"output_dir": str(tmp_path / "run")} | settings
    path = tmp_path / "config.json"
    path.write_text(json.dumps(values))
    assert message in error_of(capsys, "distill", path)


@each("held_out", [None, "", "w5"])
def test_held_out_documents_without_enough_text_are_named(folder, tmp_path, capsys, never_trains, held_out):
    rows = [{"text": "w5 w6 w7 " * 50} for _ in range(19)] + [{"text": held_out}]
    text = tmp_path / "rows.jsonl"
    text.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = json.loads((folder / "config.json").read_text()) | {"train_data": str(text)}
    del config["eval_data"]
    (tmp_path / "config.json").write_text(json.dumps(config | {"output_dir": str(tmp_path / "run")}))
    message = error_of(capsys, "distill", tmp_path / "config.json")
    assert f"the held-out part of train_data=['{text}']: the text has {2 if held_out else 0} tokens" in message
    assert "or name eval_data" in message


# export, verify, cache


@pytest.mark.slow
def test_verify_passes_what_a_run_exported(finished, capsys):
    for folder in (finished / "student", finished):
        assert main(["verify", str(folder)]) == 0
        told = capsys.readouterr().out
        assert f"{folder}: all is well" in told
        assert "sha256" not in told


@pytest.mark.slow
def test_formats_are_converted_into_each_other(finished, tmp_path, capsys):
    compact, standard = tmp_path / "compact", tmp_path / "standard"
    assert main(["export", str(finished), "--output", str(compact), "--format", "compact"]) == 0
    assert json.loads((compact / "config.json").read_text())["model_type"] == "homobert"
    assert main(["export", str(compact), "--output", str(standard)]) == 0
    assert_same_weights(standard, finished / "student")
    assert main(["verify", str(compact)]) == 0
    digest = file_digest(compact / "modeling_homobert.py")
    assert f"its code is this package's own modelling file, sha256 {digest}\n" in capsys.readouterr().out


def test_the_last_checkpoint_is_the_student(finished, tmp_path):
    assert main(["export", str(finished / "checkpoint-12"), "--output", str(tmp_path / "student")]) == 0
    assert_same_weights(tmp_path / "student", finished / "student")
    facts = json.loads((tmp_path / "student" / "facts.json").read_text())
    assert facts["teacher"]["name"] == "teacher"
    assert facts["settings"]["pruning_interval_steps"] == 2
    assert (facts["training"]["method"], facts["training"]["checkpoint"]) == ("homodistil", "checkpoint-12")


def test_an_unfinished_student_needs_permission(finished, tmp_path, capsys):
    words = ["export", str(finished / "checkpoint-4"), "--output", str(tmp_path / "student")]
    assert "set allow_partial to take it" in error_of(capsys, *words)
    assert main([*words, "--allow_partial"]) == 0
    assert BertForMaskedLM.from_pretrained(tmp_path / "student").config.hidden_size > 16


def test_caches_are_listed_and_cleared(tmp_path, capsys):
    cache = cache_folder()
    for name in ("datasets/b", "mine/c"):
        (cache / name).parent.mkdir(parents=True)
        (cache / name).write_bytes(b"1234")
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == f"{cache}/datasets: 4 bytes\n"
    assert main(["cache", "--clear"]) == 0
    assert capsys.readouterr().out == f"freed 4 bytes in {cache}\n"
    assert [path.name for path in cache.iterdir()] == ["mine"]


def test_results_end_with_lines_that_run():
    results = {"models": [{"name": "student", "kl": 0.5}], "num_steps": 1200, "time_s": 61.4}
    text = masked_words.KIND.summary(results, "runs/it's mine/")
    assert "1,200 steps, 61 s; see runs/it's mine/results.json" in text
    code = [line.strip() for line in text.splitlines()][-3:]
    assert code[1] == """model = AutoModelForMaskedLM.from_pretrained("runs/it's mine/student")"""
    compile("\n".join(code), "lines", "exec")
    assert "padded" not in text


@pytest.mark.slow
def test_a_reader_may_leave_and_streams_may_be_closed(tmp_path):
    command = f"{sys.executable} -m homodistil_hf"
    for line in (f"{command} distill --help_all 2> told | head -1; exit ${{PIPESTATUS[0]}}", f"{command} cache 2>&-"):
        ended = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode in (0, 141)  # of help that was written before its reader left, and of one that wasn't
        assert ended.stdout.count("\n") == 1
    assert (tmp_path / "told").read_text() == ""
