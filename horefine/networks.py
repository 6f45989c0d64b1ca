"""The learned parts as the pipeline uses them (``job.Networks``)."""

from __future__ import annotations

from collections.abc import Callable

from horefine.errors import ConfigError
from horefine.job import Networks


def default_networks(init: str, poses_given: bool, device: str) -> Callable[[], Networks]:
    def make() -> Networks:
        raise ConfigError("not there yet")

    return make
