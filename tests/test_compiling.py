"""What is compiled for long is told, once; what comes from the cache is not."""

import logging
import time

import pytest

from horefine import compiling as module
from horefine.compiling import compiling


def test_says_so_once_and_only_if_it_takes_long(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(module, "_met", set())
    with caplog.at_level(logging.INFO, logger="horefine"):
        with compiling("a quick thing") as first:
            assert first
        with compiling("a slow thing") as first:
            assert first
            time.sleep(0.3)
        with compiling("a slow thing") as first:
            assert not first
            time.sleep(0.15)
    assert [record.getMessage() for record in caplog.records] == [
        "compiling a slow thing: once on this machine, may take a minute"
    ]


def test_says_nothing_after_an_error(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    monkeypatch.setattr(module, "_met", set())
    with caplog.at_level(logging.INFO, logger="horefine"):
        with pytest.raises(ValueError, match="broken"), compiling("a broken thing"):
            raise ValueError("broken")
        time.sleep(0.15)
    assert not caplog.records
