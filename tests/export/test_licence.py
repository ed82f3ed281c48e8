"""The licence of a teacher: from the Hub, from its folder, or unknown; its token is never logged."""

import logging
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCardData
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from rows import each

from homodistil_hf.export import hub
from homodistil_hf.export.hub import teacher_card


class FakeApi:
    """Answers as the Hub does, and remembers what it was asked."""

    def __init__(self, answer: Any = None):
        self.answer = answer
        self.calls: list[Any] = []

    def model_info(self, name, **settings):
        self.calls.append(("model_info", name, settings))
        if isinstance(self.answer, Exception):
            raise self.answer
        return SimpleNamespace(card_data=self.answer)


@pytest.fixture
def hub_answers(monkeypatch):
    """Give the Hub's answer, and get the `FakeApi` that gives it."""

    def answers(answer: Any = None) -> FakeApi:
        api = FakeApi(answer)
        monkeypatch.setattr(hub, "HfApi", lambda: api)
        return api

    return answers


@each(
    ("answer", "licence"),
    [
        (ModelCardData(license="apache-2.0"), "apache-2.0"),
        (ModelCardData(), "unknown"),
        *((answer, "unknown") for answer in (None, OfflineModeIsEnabled("offline"), TimeoutError("slow"))),
        *((error("no"), "unknown") for error in (HfHubHTTPError.__bases__[0], ValueError)),
    ],
)
def test_a_licence_on_the_hub(answer, licence, hub_answers):
    api = hub_answers(answer)
    assert teacher_card("somebody/a-bert")["licence"] == licence
    ((_, name, settings),) = api.calls
    assert name == "somebody/a-bert"
    assert settings["timeout"] <= 10


@each(
    ("text", "licence"),
    [
        ("---\nlicense: mit\n---\n# A teacher\n", "mit"),
        ("---\ntags: [a]\n---\n", "unknown"),
        ("# No header\n", "unknown"),
        ("# No header\nlicense: mit\n", "unknown"),
        ("---\nlicense: 'bsd-3-clause'\n---\n", "bsd-3-clause"),
        ("---\nlicense: [unclosed\n---\n", "unknown"),
        ("---\njust a line\n---\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_a_licence_in_a_folder(tmp_path, text, licence, hub_answers):
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    api = hub_answers()
    assert teacher_card(str(tmp_path))["licence"] == licence
    assert api.calls == []


def test_a_token_is_never_logged(caplog, hub_answers):
    hub_answers(OSError("401 for token hf_secret"))
    with caplog.at_level(logging.DEBUG):
        teacher_card("somebody/a-bert")
    assert "somebody/a-bert" in caplog.text
    assert "hf_secret" not in caplog.text
    assert teacher_card("")["licence"] == "unknown"


@each(
    ("header", "languages"),
    [
        ("language: en", ["en"]),
        ("language:\n- en\n- de\nlicense: mit", ["en", "de"]),
        ("language: [en, 'zh-Hans']", ["en", "zh-Hans"]),
        ("license: mit", None),
        ("language:\ntags:\n- en", None),
    ],
)
def test_languages_in_a_folder(tmp_path, header, languages):
    (tmp_path / "README.md").write_text(f"---\n{header}\n---\n")
    assert teacher_card(str(tmp_path)).get("language") == languages


def test_languages_on_the_hub(hub_answers):
    for language, languages in (("en", ["en"]), (["en", "de"], ["en", "de"]), (None, None)):
        hub_answers(ModelCardData(language=language))
        assert teacher_card("somebody/a-bert").get("language") == languages
