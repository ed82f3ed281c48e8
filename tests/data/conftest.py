"""Data of tests are files alone."""

import socket

import datasets
import pytest


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache, and no network: whoever tries to connect or to look up a name makes the test fail."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert attempts == []
