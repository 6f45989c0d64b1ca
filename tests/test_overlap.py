"""Stages beside one another: order, bounds, errors, endings; and a run with threads against one without."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from photo_folder import FEW_STEPS, write_photo_folder
from typer.testing import CliRunner, Result

from horefine import outcome
from horefine.cli import app
from horefine.overlap import ahead, beside


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_come_in_the_order_of_the_tasks(workers: int) -> None:
    def slow(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        return number * number

    assert list(ahead(slow, range(12), workers, depth=4)) == [n * n for n in range(12)]


def test_no_more_tasks_are_drawn_than_may_wait_and_several_threads_work() -> None:
    drawn, seen, together = 0, set(), threading.Barrier(2, timeout=20)

    def source() -> Iterator[int]:
        nonlocal drawn
        for number in range(10):
            drawn += 1
            yield number

    def work(number: int) -> int:
        seen.add(threading.current_thread().name)
        if number < 2:
            together.wait()  # two threads are in here at once, or this breaks
        return number

    taken = 0
    for _ in ahead(work, source(), 2, depth=3):
        taken += 1
        assert drawn <= taken + 3
    assert taken == 10 and len(seen) == 2 and threading.current_thread().name not in seen


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_after_the_results_before_it_and_ends_all(workers: int) -> None:
    begun = []

    def work(number: int) -> int:
        begun.append(number)
        if number == 3:
            raise ValueError("three")
        time.sleep(0.01)
        return number

    found = []
    with pytest.raises(ValueError, match="three"):
        found.extend(ahead(work, range(1000), workers, depth=4))  # extend keeps what came before the error
    assert found[:3] == [0, 1, 2] and 3 not in found and len(begun) < 12
    assert set(found) | {3} == set(begun)  # what was begun was finished and given


def test_what_was_begun_is_given_when_drawing_a_task_fails() -> None:
    done = threading.Event()

    def source() -> Iterator[int]:
        yield from range(2)
        done.set()
        raise KeyboardInterrupt

    def work(number: int) -> int:
        done.wait(20)
        return number

    found = []
    with pytest.raises(KeyboardInterrupt):
        for number in ahead(work, source(), 2, depth=8):
            found.append(number)
    assert found == [0, 1]


def test_closing_early_leaves_no_thread() -> None:
    before = threading.active_count()
    found = ahead(lambda number: number, range(1000), 2)
    assert next(found) == 0
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_an_iterator_in_a_thread_gives_the_same(depth: int) -> None:
    names = set()

    def source() -> Iterator[int | None]:
        for number in range(8):
            names.add(threading.current_thread() is threading.main_thread())
            yield number if number % 2 else None  # None is an item like any other

    assert list(beside(source(), depth)) == [None, 1, None, 3, None, 5, None, 7]
    assert names == {depth == 0}


def test_an_iterator_in_a_thread_runs_ahead_only_so_far_and_is_closed_in_its_thread() -> None:
    drawn, closed = [], []

    def source() -> Iterator[int]:
        try:
            for number in range(100):
                drawn.append(number)
                yield number
        finally:
            closed.append(threading.current_thread() is threading.main_thread())

    found = beside(source(), 2)
    assert next(found) == 0
    time.sleep(0.1)
    assert 3 <= len(drawn) <= 4  # one taken, two waiting, one in the hand
    found.close()  # type: ignore[attr-defined]
    assert closed == [False] and len(drawn) <= 5


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_of_an_iterator_in_a_thread_comes_in_its_place(kind: type[BaseException]) -> None:
    def source() -> Iterator[int]:
        yield 1
        raise kind("two")

    found = beside(source(), 3)
    assert next(found) == 1
    with pytest.raises(kind, match="two"):
        next(found)


# --- a run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photographs, the second of a left hand; the poses of the fourth are missing."""
    root = write_photo_folder(tmp_path_factory.mktemp("photos"), 5, left=(1,))
    (root / "init" / "p3.npz").unlink()
    return root


def refine(photos: Path, out: Path, *words: object) -> Result:
    files = ("--init", photos / "init", "--features", photos / "maps", "--out", out, "--batch-size", 2)
    return CliRunner().invoke(app, [str(w) for w in ("run", photos / "images", *files, *FEW_STEPS, *words)])


def contents(out: Path) -> dict[str, bytes]:
    """Every file's bytes, timings and what is made of them taken out."""
    found = {}
    for path in sorted(file for file in out.rglob("*") if file.is_file()):
        data = path.read_bytes()
        if path.name in ("report.html", "summary.csv"):  # full of seconds; made of the other files
            continue
        if path.name == "result.json":
            table = json.loads(data)
            assert table.pop("seconds")
            data = json.dumps(table).encode()
        elif path.name == "summary.json":
            table = json.loads(data)
            table["medians"].pop("seconds")
            for entry in table["items"]:
                entry.pop("seconds", None)
            data = json.dumps(table).encode()
        found[str(path.relative_to(out))] = data
    return found


def test_a_run_with_threads_writes_the_bytes_of_one_without(photos: Path, tmp_path: Path) -> None:
    outs = {threads: tmp_path / str(threads) for threads in (0, 3)}
    said = {threads: refine(photos, out, "--threads", threads) for threads, out in outs.items()}
    assert {result.exit_code for result in said.values()} == {4}  # p3 has no pose
    serial = contents(outs[0])
    assert {name.split("/")[1] for name in serial if name.startswith("items/")} == {"p0", "p1", "p2", "p4"}
    assert len(serial) == 4 * 5 + 2
    assert contents(outs[3]) == serial
    lines = [[line for line in said[n].stderr.splitlines() if line.startswith("INFO: p")] for n in (0, 3)]
    assert lines[0] == lines[1] and len(lines[0]) == 4  # told in the same order
    again = refine(photos, outs[3], "--threads", 3)
    assert again.stderr.count("finished before") == 4


def test_ctrl_c_between_threads_leaves_whole_items_that_the_summary_knows(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = outcome.write_result

    def interrupted(folder: Path, result) -> None:
        if result.name == "p1":
            raise KeyboardInterrupt
        write(folder, result)

    monkeypatch.setattr(outcome, "write_result", interrupted)
    result = refine(photos, tmp_path, "--threads", 2, "--no-pictures")
    assert result.exit_code == 130
    whole = {path.parent.name for path in tmp_path.glob("items/*/result.json")}
    assert "p0" in whole and "p1" not in whole
    assert {path.name for path in (tmp_path / "items").iterdir()} == whole  # no half-written folder
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {e["name"] for e in summary["items"] if e["status"] != "failed"} == whole and not summary["complete"]


def test_a_full_disk_ends_a_run_with_threads_and_keeps_what_is_finished(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = outcome.write_result

    def full(folder: Path, result) -> None:
        if result.name == "p2":
            raise OSError(28, "No space left on device")
        write(folder, result)

    monkeypatch.setattr(outcome, "write_result", full)
    result = refine(photos, tmp_path, "--threads", 2, "--no-pictures")
    assert result.exit_code == 1 and "is full; finished items are kept" in result.stderr
    whole = {path.name for path in (tmp_path / "items").iterdir()}
    assert {"p0", "p1"} <= whole and "p2" not in whole
    monkeypatch.undo()
    shutil.copy(photos / "init" / "p0.npz", photos / "init" / "p3.npz")
    try:
        assert refine(photos, tmp_path, "--threads", 2, "--no-pictures").exit_code == 0
    finally:
        (photos / "init" / "p3.npz").unlink()


def test_a_packed_outcome_is_the_same_in_less_memory(tmp_path: Path) -> None:
    row = {"name": "a", "status": "improved", "reason": "it fell", "seconds": 1.25, "hand_error_mm": None, "notes": ""}
    plain = outcome.Outcome("a", "improved", row=row)
    packed = plain.packed()
    assert dict(packed.row) == row and len(packed.row) == 6 and packed.row.get("reason") == "it fell"
    assert packed.row.get("object") is None and packed == dataclasses.replace(plain, row=packed.row)
    for which in (plain, packed):
        outcome.write_summary(tmp_path / which.row.__class__.__name__, [which], {})
    first, second = ((tmp_path / name / "summary.json").read_bytes() for name in ("dict", "_Packed"))
    assert first == second and b'"seconds": 1.25' in first
