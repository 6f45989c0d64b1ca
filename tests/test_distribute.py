"""A run by the workers of a Ray cluster: as here, whatever dies."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mortal import deadly, endless, full
from photo_folder import FEW_STEPS, write_photo_folder
from same_results import assert_same
from typer.testing import CliRunner, Result

pytest.importorskip("ray")

from horefine import cluster, distribute, pipeline, run_command
from horefine.cli import app
from horefine.cluster import Engine, Lost, connected, open_workers
from horefine.errors import AssetError, InputError
from horefine.job import Job

TWO = Engine(workers=2)
NAMES = {f"p{k}" for k in range(5)}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo_folder(tmp_path_factory.mktemp("photos"), len(NAMES), left=(1,))


@pytest.fixture(scope="module", autouse=True)
def two_workers() -> Iterator[None]:
    """One cluster for all tests of this file, whose workers find the tests' modules."""
    with pytest.MonkeyPatch.context() as patch:
        here = Path(__file__).resolve().parent
        patch.setenv("PYTHONPATH", os.pathsep.join([str(here.parent), str(here)]))
        with connected(TWO):
            yield


def horefine(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def refine(photos: Path, out: Path, *words: object) -> Result:
    files = ("--init", photos / "init", "--features", photos / "maps", "--out", out, "--batch-size", 2)
    return horefine("run", photos / "images", *files, *FEW_STEPS, *words)


@pytest.fixture(scope="module")
def here(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the run in this process."""
    out = tmp_path_factory.mktemp("here")
    assert refine(photos, out).exit_code == 0
    return out


def make(photos: Path, out: Path, **options: Any) -> Job:
    from horefine.config import load_config

    usual: dict[str, Any] = dict.fromkeys(
        ("checkpoint", "object_name", "object_unit", "intrinsics", "fov", "side", "boxes", "wrist", "mano_dir")
    )
    usual |= {"hand": "auto", "device": "cpu", "renderer": "auto", "detector": "horefine", "batch_size": 2}
    usual |= {"init": str(photos / "init"), "features": photos / "maps"}
    recipe = load_config("default", [word for word in FEW_STEPS if word != "--set"])
    return run_command.make_job(photos / "images", out, recipe, **(usual | options))


def left_over(out: Path) -> list[str]:
    return [path.name for path in out.rglob("*") if path.name.startswith(".")]


# --- runs --------------------------------------------------------------------------------------------------------


def test_two_workers_write_what_one_process_writes(photos: Path, here: Path, tmp_path: Path) -> None:
    result = refine(photos, tmp_path, "--engine", "ray", "--workers", 2)
    assert result.exit_code == 0, result.stderr
    assert "3 batches for 2 workers" in result.stderr and "p3: improved" in result.stderr
    assert_same(here, tmp_path)
    before = (tmp_path / "items" / "p4" / "result.json").stat().st_mtime_ns
    again = refine(photos, tmp_path, "--engine", "ray", "--workers", 2)
    assert again.exit_code == 0 and again.stderr.count("finished before") == 5 and "batches for" not in again.stderr
    assert (tmp_path / "items" / "p4" / "result.json").stat().st_mtime_ns == before


def test_a_worker_killed_in_the_middle_costs_nothing_but_time(
    photos: Path, here: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed when it had finished p2 and written half of p3."""
    (tmp_path / "marks").mkdir()
    out = tmp_path / "out"
    there = functools.partial(deadly, functools.partial(make, photos, out), "p3", tmp_path / "marks", 1)
    job = make(photos, out)
    with caplog.at_level(logging.INFO, "horefine"):
        run_command.drive(job, False, True, by=lambda own: distribute.run(own, there, TWO))
    assert len(list((tmp_path / "marks").iterdir())) == 1 and "a worker died (pid" in caplog.text
    assert {path.name for path in (out / "items").iterdir()} == NAMES and not left_over(out)
    assert_same(here, out)


def test_a_disk_that_fills_under_a_worker_is_said_here(photos: Path, tmp_path: Path) -> None:
    there = functools.partial(full, functools.partial(make, photos, tmp_path))
    with pytest.raises(pipeline.DiskFull, match=f"the disk that holds {tmp_path} is full; finished items are kept"):
        list(distribute.run(make(photos, tmp_path), there, TWO))
    assert not left_over(tmp_path)


@pytest.mark.slow
def test_an_image_that_kills_every_worker_fails_alone(photos: Path, here: Path, tmp_path: Path) -> None:
    (tmp_path / "marks").mkdir()
    out = tmp_path / "out"
    there = functools.partial(deadly, functools.partial(make, photos, out), "p1", tmp_path / "marks", 99)
    outcomes = {own.name: own for own in distribute.run(make(photos, out), there, TWO)}
    assert set(outcomes) == NAMES and len(list((tmp_path / "marks").iterdir())) == 2 * cluster.TRIES
    lost = outcomes.pop("p1")
    assert lost.status == "failed" and lost.error_code == "worker" and lost.error is not None
    assert "p1: every worker that refined it died, 2 times alone; the last one: pid " in lost.error
    assert all(own.status in ("improved", "unchanged") for own in outcomes.values()) and not left_over(out)
    assert {path.name for path in (out / "items").iterdir()} == NAMES - {"p1"}


@pytest.mark.slow
def test_images_that_cannot_be_used_fail_as_here(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    for name in ("p0", "p1", "p3", "p4"):
        (tmp_path / "maps" / f"{name}.npz").symlink_to(photos / "maps" / f"{name}.npz")
    words = ("--features", tmp_path / "maps", "--no-pictures", "--quiet")
    local = refine(photos, tmp_path / "here", *words)
    result = refine(photos, tmp_path / "there", *words, "--engine", "ray", "--workers", 2)
    assert result.exit_code == local.exit_code == 4 and sorted(result.stderr.splitlines()) == sorted(
        local.stderr.replace("/here/", "/there/").splitlines()
    )
    rows = [(tmp_path / name / "summary.csv").read_text().splitlines()[3] for name in ("here", "there")]
    assert rows[0] == rows[1] and rows[0].startswith("p2,failed,,input,")
    strict = refine(photos, tmp_path / "strict", *words, "--strict", "--engine", "ray", "--workers", 2)
    assert strict.exit_code == 4 and "p2: no p2.npz in" in strict.stderr


@pytest.mark.slow
def test_a_shard_by_workers(photos: Path, here: Path, tmp_path: Path) -> None:
    for number in (1, 2):
        words = ("--shard", f"{number}/2", "--engine", "ray", "--workers", 2)
        assert refine(photos, tmp_path, *words).exit_code == 0
    assert horefine("merge", tmp_path).exit_code == 0
    assert_same(here, tmp_path)


@pytest.mark.slow
def test_ctrl_c_stops_the_workers_in_order(photos: Path, here: Path, tmp_path: Path) -> None:
    """Workers busy for ever are asked to leave; had they been ended by force, that would have taken their patience."""
    asked: list[float] = []

    def check() -> None:
        if asked or {"p0", "p1"} <= {path.name for path in (tmp_path / "items").iterdir()}:
            asked.append(time.monotonic())
            raise KeyboardInterrupt

    job = dataclasses.replace(make(photos, tmp_path), check=check)
    there = functools.partial(endless, functools.partial(make, photos, tmp_path))
    done = []
    with pytest.raises(KeyboardInterrupt):
        for outcome in distribute.run(job, there, Engine(workers=1)):
            done.append(outcome.name)
    assert time.monotonic() - asked[0] < cluster.PATIENCE and set(done) <= {"p0", "p1"}
    assert {path.name for path in (tmp_path / "items").iterdir()} == {"p0", "p1"} and not left_over(tmp_path)
    assert refine(photos, tmp_path, "--engine", "ray", "--workers", 2).exit_code == 0
    for name in ("summary.csv", "summary.json", "report.html"):
        (tmp_path / name).unlink()
    assert {path.name for path in (tmp_path / "items").iterdir()} == NAMES


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_a_signal_to_all_processes_ends_the_command_in_order(photos: Path, tmp_path: Path) -> None:
    """As a terminal's Ctrl-C, which its whole group of processes gets, with a cluster of its own."""
    command = [sys.executable, "-m", "horefine.cli", "run", photos / "images", "--init", photos / "init"]
    command += ["--features", photos / "maps", "--out", tmp_path / "out", "--config", "song2022"]
    command += ["--set", "stages.align.steps=1000000", "--engine", "ray", "--workers", "2", "--batch-size", "2"]
    with subprocess.Popen(
        [str(word) for word in command], stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL), env={**os.environ, "RAY_ADDRESS": "nowhere:1"},
    ) as process:  # fmt: skip
        try:
            assert process.stderr is not None
            said = process.stderr.readline()
            while said and "2 workers" not in said:
                said = process.stderr.readline()
            time.sleep(15)
            os.killpg(process.pid, signal.SIGINT)
            _, error = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 130, error
    assert "interrupted: " in error and "Traceback" not in error
    assert not left_over(tmp_path / "out")


# --- the other commands ------------------------------------------------------------------------------------------


def test_evaluation_by_workers(photos: Path, here: Path, tmp_path: Path) -> None:
    tables = []
    for words in ((), ("--engine", "ray", "--workers", 2)):
        result = horefine("evaluate", here, "--metrics", "HE,OE,PD", "--json", *words)
        assert result.exit_code == 0, result.stderr
        tables.append(json.loads(result.stdout))
    shutil.rmtree(here / "evaluation")
    assert tables[0] == tables[1] and len(tables[0]["items"]) == len(NAMES)


@pytest.mark.slow
def test_simulation_by_workers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pybullet")
    monkeypatch.setattr("horefine.evaluate.evaluation._TOGETHER", 1)
    tables = []
    for words in ((), ("--engine", "ray", "--workers", 2)):
        result = horefine("evaluate", here, "--metrics", "HE", "--sim", "--limit", 2, "--json", *words)
        assert result.exit_code == 0, result.stderr
        tables.append(json.loads(result.stdout))
    shutil.rmtree(here / "evaluation")
    assert tables[0] == tables[1]
    assert all(item["sd_mm"] > 0 for item in tables[0]["items"])


def test_ablation_by_workers(photos: Path, tmp_path: Path) -> None:
    files = ("--init", photos / "init", "--features", photos / "maps", "--batch-size", 2, "--limit", 3)
    words = ("ablate", photos / "images", *files, *FEW_STEPS, "--drop", "contact", "--metrics", "HE,OE", "--quiet")
    for name, how in (("here", ()), ("there", ("--engine", "ray", "--workers", 2))):
        result = horefine(*words, "--out", tmp_path / name, *how)
        assert result.exit_code == 0, result.stderr
    first, second = (json.loads((tmp_path / name / "ablation.json").read_text()) for name in ("here", "there"))
    assert first == second and [len(own) for own in first["items"].values()] == [3, 3]
    poses = [
        [json.loads(path.read_text())["pose"] for path in sorted((tmp_path / name / "variants").glob("*/p*.json"))]
        for name in ("here", "there")
    ]
    assert poses[0] == poses[1] and len(poses[0]) == 6


@pytest.mark.slow
def test_a_suite_by_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = []
    for name, words in (("here", ()), ("there", ("--engine", "ray", "--workers", 2))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        result = horefine("evaluate", "--suite", "small", "--limit", 3, "--json", "--quiet", *words)
        assert result.exit_code == 0, result.stderr
        tables.append(json.loads(result.stdout)["items"])
    assert tables[0] == tables[1]


# --- what cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--engine", "spark"), "--engine spark: known: local (this process), ray"),
        (("--workers", 2), "--workers: goes with --engine ray"),
        (("--address", "auto"), "--address: goes with --engine ray"),
        (("--gpus-per-worker", 1), "--gpus-per-worker: goes with --engine ray"),
        (("--engine", "ray", "--clip"), "a clip is refined as a whole"),
        (("--engine", "ray", "--device", "cuda:0"), "--gpus-per-worker 1 gives each worker a GPU"),
        (("--engine", "ray", "--gpus-per-worker", 1000), "a worker needs 1 CPU, 1000 GPU, the cluster has 2 CPU, "),
    ],
)
def test_what_cannot_be_is_said(words: tuple[object, ...], said: str, photos: Path, tmp_path: Path) -> None:
    result = refine(photos, tmp_path, *words)
    assert result.exit_code == 2 and said in result.stderr and not list(tmp_path.glob("items/*"))


def test_without_ray_the_command_says_how_to_get_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = refine(photos, tmp_path / "out", "--engine", "ray")
    assert result.exit_code == 3 and "pip install 'horefine[ray]'" in result.stderr
    assert not (tmp_path / "out").exists()


# --- workers -----------------------------------------------------------------------------------------------------


def test_results_errors_and_messages_of_workers_come_back() -> None:
    def begin(check: Callable[[], None]) -> Callable[[int], tuple[int, int]]:
        def work(number: int) -> tuple[int, int]:
            check()
            logging.getLogger("horefine.there").warning("at %d", number)
            if number == 7:
                raise InputError("seven")
            return number * number, os.getpid()

        return work

    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("horefine").addHandler(handler)
    try:
        with open_workers(TWO, begin) as workers:
            found = dict(workers.map(range(6)))
            assert {place: square for place, (square, _) in found.items()} == {k: k * k for k in range(6)}
            assert len({process for _, process in found.values()}) == 2
            assert sorted(said) == [f"at {k}" for k in range(6)]
            again = dict(workers.map([2]))  # by the same processes
            assert again[0][1] in {process for _, process in found.values()}
            with pytest.raises(InputError, match=r"^seven$"):
                list(workers.map([7]))
    finally:
        logging.getLogger("horefine").removeHandler(handler)


def test_what_a_worker_cannot_make_is_said_once() -> None:
    def begin(check: Callable[[], None]) -> Callable[[int], int]:
        raise AssetError("no weights")

    with open_workers(TWO, begin) as workers, pytest.raises(AssetError, match=r"^no weights$"):
        list(workers.map(range(3)))


def test_a_task_is_given_up_after_so_many_workers() -> None:
    def begin(check: Callable[[], None]) -> Callable[[int], int]:
        def work(number: int) -> int:
            if number == 1:
                os._exit(3)
            return number

        return work

    with open_workers(TWO, begin) as workers:
        found = dict(workers.map(range(4), tries=1))
    lost = found.pop(1)
    assert found == {0: 0, 2: 2, 3: 3} and isinstance(lost, Lost) and lost.tries == 1 and "pid" in lost.why


def test_no_cluster_at_an_address() -> None:
    code = "from horefine.cluster import Engine, connected\nwith connected(Engine('127.0.0.1:1')): pass"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert "ConfigError: --address 127.0.0.1:1: no Ray cluster answers" in done.stderr
