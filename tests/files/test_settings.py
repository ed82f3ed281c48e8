import dataclasses
import sys

import pytest
from rows import each

from homodistil_hf.evaluation.fine_tuning import OwnTaskSettings
from homodistil_hf.files.flags import SettingsParser
from homodistil_hf.files.settings import limits_of
from homodistil_hf.runs.config import parse_run
from homodistil_hf.runs.kinds import KINDS, METHODS, run_kind_named, trainer_named

assert [*map(trainer_named, METHODS), *map(run_kind_named, KINDS)]  # imports every class of settings

GIVEN = ("--teacher", "a", "--train_data", "b", "--output_dir", "c")


@each(
    ("words", "rotates", "uses_bf16"),
    [
        ((), True, False),
        (("--no_rotate_heads",), False, False),
        (("--no-rotate-heads", "--bf16"), False, True),
        (("--rotate_heads", "no", "--bf16", "1"), False, True),
        (("--rotate-heads=0", "--bf16=yes"), False, True),
        (("--rotate_heads", "--bf16", "FALSE"), True, False),
    ],
)
def test_flags_of_booleans(words, rotates, uses_bf16):
    training = parse_run([*GIVEN, *words]).training
    assert (training.rotate_heads, training.bf16) == (rotates, uses_bf16)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--bf16", "maybe"), "argument --bf16: 'maybe' is neither true nor false; see homodistil distill --help_all"),
        (("--no_bf16",), "unknown key --no_bf16; nearest valid: --bf16"),
    ],
)
def test_words_that_are_no_boolean(words, message):
    with pytest.raises(ValueError, match=message):
        parse_run([*GIVEN, *words])


def test_a_value_may_end_like_a_key():
    assert parse_run([*GIVEN, "--run_name", "a_seed", "--output_dir", "b-bf16"]).training.run_name == "a_seed"


def test_a_home_folder_is_written_out(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/ada")
    config = tmp_path / "config.json"
    config.write_text('{"teacher": "~/models/t", "train_data": ["~/a.txt", "b~c.txt"]}', encoding="utf-8")
    found = parse_run([str(config), "--output_dir=~/runs/1", "--eval_data", "~/d.txt", "--hub_model_id", "ada/~x"])
    assert found.run.teacher == "/home/ada/models/t"
    assert list(found.run.train_data) == ["/home/ada/a.txt", "b~c.txt"]
    assert (found.training.output_dir, found.training.hub_model_id) == ("/home/ada/runs/1", "ada/~x")


@each("word", ["~", "~root", "~ query: ", "~5 words/line", "a~/b"])
def test_what_is_no_path_stays_as_it_is(monkeypatch, word):
    monkeypatch.setenv("HOME", "/home/ada")
    found = parse_run([*GIVEN, f"--text_column={word}", "--eval_split", word])
    assert (found.run.text_column, found.run.eval_split) == (word, word)
    assert SettingsParser("x", OwnTaskSettings).given(["--label_column", word], {"text_columns": [word]}) == {
        "label_column": word,
        "text_columns": [word],
    }


def settings_classes():
    modules = [module for name, module in sys.modules.items() if name.startswith("homodistil_hf.")]
    kinds = {kind for module in modules for kind in vars(module).values() if isinstance(kind, type)}
    return sorted(filter(dataclasses.is_dataclass, kinds), key=lambda kind: kind.__qualname__)


def test_a_default_of_a_subclass_keeps_the_limits_of_its_field():
    num_overridden = 0
    for kind in settings_classes():
        own = {entry.name: entry for entry in dataclasses.fields(kind)}
        for parent in filter(dataclasses.is_dataclass, kind.__mro__[1:]):
            for entry in dataclasses.fields(parent):
                if own[entry.name] is not entry and limits_of(entry):
                    num_overridden += 1
                    missing = limits_of(entry).keys() - limits_of(own[entry.name]).keys()
                    assert not missing, f"{kind.__name__}.{entry.name} lost {missing}"
    assert num_overridden > 1
