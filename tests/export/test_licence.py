"""What a teacher's card states in a folder, and where no Hub answers; `test_hub.py` asks one."""

from types import SimpleNamespace

import pytest
from rows import each

from homodistil_hf.export import hub
from homodistil_hf.export.hub import teacher_card


@each(
    ("text", "licence", "languages"),
    [
        ("---\nlicense: mit\nlanguage: en\n---\n# A teacher\n", "mit", ["en"]),
        ("---\ntags:\n- a\nlicense: apache-2.0\nlanguage:\n- en\n- de\n---\n", "apache-2.0", ["en", "de"]),
        ("---\nlanguage:\n- en\n- de\nlicense: 'bsd-3-clause'\n---\n", "bsd-3-clause", ["en", "de"]),
        ("---\ntags: [a]\nlanguage: [en, 'zh-Hans']\n---\n", "unknown", ["en", "zh-Hans"]),
        ("---\nlanguage:\ntags:\n- en\n---\n", "unknown", None),
        ("# No header\nlicense: mit\n", "unknown", None),
        ("---\nlicense: [unclosed\n---\n", "unknown", None),
        ("---\njust a line\n---\n", "unknown", None),
        (None, "unknown", None),
    ],
)
def test_what_the_card_in_a_folder_states(tmp_path, monkeypatch, text, licence, languages):
    monkeypatch.setattr(hub, "HfApi", None)  # the Hub is not asked
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    card = teacher_card(str(tmp_path))
    assert (card["licence"], card.get("language")) == (licence, languages)


@pytest.mark.parametrize("error", [TimeoutError, OSError, ValueError])
def test_a_hub_without_an_answer_states_nothing(monkeypatch, caplog, error):
    def model_info(name, *, timeout):
        assert timeout <= 10
        raise error("for token hf_secret")

    monkeypatch.setattr(hub, "HfApi", lambda: SimpleNamespace(model_info=model_info))
    with caplog.at_level("DEBUG"):
        unknown = {"name": "somebody/a-bert", "hub_id": "somebody/a-bert", "licence": "unknown"}
        assert teacher_card("somebody/a-bert") == unknown
        assert teacher_card("") == {"name": "an unnamed teacher", "hub_id": None, "licence": "unknown"}
    assert "somebody/a-bert" in caplog.text
    assert "hf_secret" not in caplog.text
