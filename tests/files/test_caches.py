from pathlib import Path

import pytest

from homodistil_hf.files.caches import cache_folder


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HOMODISTIL_CACHE": "/own", "XDG_CACHE_HOME": "/xdg"}, "/own/homodistil_hf"),
        ({"HOMODISTIL_CACHE": "~no_such_user_here"}, f"{Path.cwd()}/~no_such_user_here/homodistil_hf"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/homodistil_hf"),
        ({"HOME": "/home/somebody"}, "/home/somebody/.cache/homodistil_hf"),
    ],
)
def test_where_caches_are(variables, expected, monkeypatch):
    for name in ("HOMODISTIL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)
