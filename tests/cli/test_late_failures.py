"""Places and words of commands that would fail late are refused at once."""

from commands import error_of
from rows import each


@each("place", ["file/new", "/proc/new"])
@each(
    ("words", "argument"),
    [
        (("trim", "TEACHER", "--text", "TEXT", "--output"), "output"),
        (("export", "RUN", "--output"), "output"),
        (("latency", "TEACHER", "--output"), "output"),
        (("evaluate", "TEACHER", "--task", "discrepancy", "--eval_data", "TEXT", "--output_dir"), "output_dir"),
        (("evaluate", "TEACHER", "--task", "discrepancy", "--eval_data", "TEXT", "--output"), "output"),
        (("evaluate", "--compare", "TEACHER", "--output"), "output"),
        (("prune", "--model", "TEACHER", "--unlabeled_data", "TEXT", "--output_dir"), "output_dir"),
        (
            ("finetune", "--model", "TEACHER", "--train_data", "ROWS", "--eval_data", "ROWS", "--output_dir"),
            "output_dir",
        ),
        (
            (
                "distill",
                *("--method", "bit", "--model", "TEACHER", "--train_data", "R", "--eval_data", "R"),
                "--output_dir",
            ),
            "output_dir",
        ),
        (("demo", "--output_dir"), "output_dir"),
    ],
)
def test_an_output_that_can_not_be_written_is_told_before_the_work(folder, tmp_path, capsys, words, argument, place):
    (tmp_path / "file").touch()
    given = {"TEACHER": str(folder / "teacher"), "TEXT": str(folder / "train.txt"), "RUN": str(folder / "run")}
    target = str(tmp_path / place) + (".md" if words[0] == "evaluate" and argument == "output" else "")
    error = error_of(capsys, *(given.get(word, word) for word in words), target)
    assert f"error: {argument}='{target}' can't be written (" in error


def test_a_path_is_never_told_as_a_repository(folder, tmp_path, capsys):
    gone = tmp_path / "gone"
    for words in (
        ("plan", "--student", "macs=0.5", "--teacher"),
        ("trim", "--text", folder / "train.txt", "--output", tmp_path / "t"),
        ("latency",),
        ("distill", folder / "config.json", "--output_dir", tmp_path / "d", "--tokenizer"),
        ("distill", "--train_data", "x", "--output_dir", tmp_path / "d", "--method", "embedding", "--teacher"),
    ):
        assert f"='{gone}' does not exist; expected a folder" in error_of(capsys, *words, gone)


def test_words_that_are_no_keys_are_told(folder, capsys):
    config = folder / "config.json"
    for word in ("--student macs=0.5", "--student ", "--student\u00a0"):
        assert "is no key by itself; write --student VALUE" in error_of(capsys, "distill", config, word)
    assert "leave it out: every value stands behind its --key" in error_of(
        capsys, *("distill", config, "--", "--student", "macs=0.5")
    )
