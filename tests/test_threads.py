"""Threads over items: every item once, errors raised, and torch's own threads out of the way only within."""

from __future__ import annotations

import threading

import pytest
import torch

from horefine import threads


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_torch_has_one_thread_within_and_the_pool_all() -> None:
    with threads.one_torch_thread():
        assert (torch.get_num_threads(), threads.allowed()) == (1, 2)
        with threads.one_torch_thread():
            assert (torch.get_num_threads(), threads.allowed()) == (1, 2)
        assert torch.get_num_threads() == 1
    assert (torch.get_num_threads(), threads.allowed()) == (2, 2)
    with pytest.raises(KeyError), threads.one_torch_thread():
        raise KeyError
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("count", [0, 1, 3, 4, 7, 64])
def test_every_item_once_and_by_several_threads_from_four(count: int) -> None:
    seen: list[tuple[int, int, int]] = []
    barrier = threading.Barrier(2, timeout=10)

    def work(first: int, last: int) -> None:
        if count >= threads.PARALLEL_FROM:
            barrier.wait()  # both at once, or this never ends
        seen.append((first, last, threading.get_ident()))

    with threads.one_torch_thread():
        threads.over_items(work, count)
    assert sorted(i for first, last, _ in seen for i in range(first, last)) == list(range(count))
    assert len({who for *_, who in seen}) == (2 if count >= threads.PARALLEL_FROM else 1)


@pytest.mark.usefixtures("two_threads")
def test_an_error_in_any_part_is_raised() -> None:
    def work(first: int, last: int) -> None:
        if last == 8:
            raise ValueError("of the second half")

    with pytest.raises(ValueError, match="of the second half"):
        threads.over_items(work, 8)
