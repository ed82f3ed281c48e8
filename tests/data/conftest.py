"""No test of data reaches for the network."""

import socket

import pytest


@pytest.fixture
def offline(monkeypatch):
    """No network: whoever tries to connect or to look up a name makes the test fail."""
    attempts = []

    def refuse(*args, **kwargs):
        attempts.append(args)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    yield
    assert attempts == []
