"""A run in parts, and one summary of them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from photo_folder import FEW_STEPS, write_photo_folder
from same_results import assert_same
from typer.testing import CliRunner, Result

from horefine.cli import app
from horefine.errors import ConfigError
from horefine.export import clean_leftovers, new_folder
from horefine.merge import merge
from horefine.processes import machine
from horefine.shards import Shard, parse_shard

NAMES = tuple(f"p{k}" for k in range(5))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo_folder(tmp_path_factory.mktemp("photos"), len(NAMES), left=(1,))


def horefine(*words: object) -> Result:
    """Runs the command, whose words are what the process was called with too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["horefine", *map(str, words)])
        return CliRunner().invoke(app, sys.argv[1:])


def words_of(photos: Path, out: Path, *words: object) -> tuple[object, ...]:
    files = ("--init", photos / "init", "--features", photos / "maps", "--out", out, "--batch-size", 2)
    return ("run", photos / "images", *files, *FEW_STEPS, *words)


def refine(photos: Path, out: Path, *words: object) -> Result:
    return horefine(*words_of(photos, out, *words))


@pytest.fixture(scope="module")
def whole(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the undivided run."""
    out = tmp_path_factory.mktemp("whole")
    assert refine(photos, out).exit_code == 0
    return out


@pytest.fixture(scope="module")
def parts(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three shards, each with an output folder of its own. Not to be changed."""
    root = tmp_path_factory.mktemp("parts")
    for number in (1, 2, 3):
        assert refine(photos, root / str(number), "--shard", f"{number}/3").exit_code == 0
    return [root / str(number) for number in (1, 2, 3)]


def names_in(out: Path) -> set[str]:
    return {path.name for path in (out / "items").iterdir()}


# --- shards ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "a/b", "1/3/5", "-1/3", "1.0/2", ""])
def test_a_shard_that_is_none_is_refused(text: str, photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 <= i <= n"):
        parse_shard(text)
    result = refine(photos, tmp_path / "out", f"--shard={text}")
    assert result.exit_code == 2 and "--shard" in result.stderr and not (tmp_path / "out").exists()


def test_a_shard_in_words() -> None:
    assert parse_shard(" 2/10 ") == Shard(2, 10) and str(Shard(2, 10)) == "2/10"


def test_shards_share_out_whole_batches(parts: list[Path]) -> None:
    """Every image once, with the neighbours that it has in the undivided run."""
    assert [names_in(out) for out in parts] == [{"p0", "p1"}, {"p2", "p3"}, {"p4"}]
    for out in parts:
        assert not (out / "summary.json").exists() and not (out / "report.html").exists()


def test_more_shards_than_batches_are_empty_but_fine(photos: Path, tmp_path: Path) -> None:
    assert refine(photos, tmp_path, "--shard", "5/5").exit_code == 0
    record = json.loads((tmp_path / "shards" / "5-of-5.json").read_text())
    assert record["names"] == [] and record["ended"] and record["total"] == 5


def test_a_clip_is_not_divided(photos: Path, tmp_path: Path) -> None:
    result = refine(photos, tmp_path, "--clip", "--shard", "1/2")
    assert result.exit_code == 2 and "a clip is refined as a whole" in result.stderr


def test_a_dry_run_is_of_the_shard(photos: Path, tmp_path: Path) -> None:
    result = refine(photos, tmp_path / "out", "--shard", "2/3", "--dry-run", "--json")
    assert json.loads(result.stdout)["todo"] == ["p2", "p3"] and not (tmp_path / "out").exists()


# --- one disk, many machines -------------------------------------------------------------------------------------


def test_what_another_machine_is_writing_is_left_alone(tmp_path: Path) -> None:
    """Its process numbers mean nothing here; only what nobody touched for an hour is a leftover."""
    fresh, old = (tmp_path / f".partial-{number}@0123abcd-p0" for number in (1, os.getpid()))
    for folder in (fresh, old):
        folder.mkdir()
        (folder / "result.npz").touch()
    hours_ago = time.time() - 7200
    os.utime(old / "result.npz", (hours_ago, hours_ago))
    assert clean_leftovers(tmp_path) == 0  # the folder itself is of now
    os.utime(old, (hours_ago, hours_ago))
    assert clean_leftovers(tmp_path) == 1 and [path.name for path in tmp_path.iterdir()] == [fresh.name]
    assert clean_leftovers(tmp_path, {"2@0123abcd"}) == 0
    assert clean_leftovers(tmp_path, {"1@0123abcd"}) == 1 and not fresh.exists()  # somebody knows that it is dead


def test_what_a_dying_process_wrote_is_a_leftover(tmp_path: Path) -> None:
    """A killed one is listed by the system until its memory is given back; who ended it need not wait for that."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as dying:
        (tmp_path / f".partial-{dying.pid}@{machine()}-p0").mkdir()
        assert clean_leftovers(tmp_path) == 0
        assert clean_leftovers(tmp_path, {f"{dying.pid}@{machine()}"}) == 1
        dying.kill()


def test_two_that_write_one_folder_leave_it_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "p0") as first:
        (first / "a").write_text("first")
        (first / "b").write_text("first")
        other = "from pathlib import Path\nfrom horefine.export import new_folder\n"
        other += f"with new_folder(Path({str(tmp_path / 'p0')!r})) as folder: (folder / 'a').write_text('other')"
        subprocess.run([sys.executable, "-c", other], check=True, cwd=Path(__file__).parents[1])
        assert [path.name for path in (tmp_path / "p0").iterdir()] == ["a"]
    assert sorted(path.read_text() for path in (tmp_path / "p0").iterdir()) == ["first", "first"]
    assert [path.name for path in tmp_path.iterdir()] == ["p0"]


# --- merging -----------------------------------------------------------------------------------------------------


def test_shards_of_one_folder_merge_to_the_undivided_run(photos: Path, whole: Path, tmp_path: Path) -> None:
    for number in (3, 1, 2):  # in any order
        assert refine(photos, tmp_path, "--shard", f"{number}/3").exit_code == 0
    result = horefine("merge", tmp_path)
    assert result.exit_code == 0 and "5 of 5 images are finished" in result.stderr
    assert_same(whole, tmp_path)


def test_shards_of_many_folders_merge_to_the_undivided_run(whole: Path, parts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "merged"
    assert horefine("merge", out, *parts).exit_code == 0
    assert_same(whole, out)
    assert horefine("merge", out).exit_code == 0  # alone now: it has taken all over
    assert_same(whole, out)
    summary = json.loads(horefine("merge", out, "--json", "--quiet").stdout)
    assert [item["name"] for item in summary["items"]] == list(NAMES) and summary["complete"]


def test_what_is_missing_is_named_with_the_command_for_it(
    photos: Path, whole: Path, parts: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(parts[0], out)
    shutil.rmtree(out / "items" / "p1")
    result = horefine("merge", out, parts[2])
    assert result.exit_code == 4 and "3 of 5" not in result.stderr and "2 of 5 images are finished" in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("WARNING: shard")]
    assert [line.split(": ")[1:3] for line in lines] == [
        ["shard 1/3", "1 missing (p1)"],
        ["shard 2/3", "has not begun"],
    ]
    summary = json.loads((out / "summary.json").read_text())
    assert not summary["complete"] and [item["name"] for item in summary["items"]] == ["p0", "p4"]
    for line in lines:  # the commands do what they say
        words = shlex.split(line.split(": ", 3)[3])
        words[words.index("--out") + 1] = str(out)
        assert words[0] == "horefine" and horefine(*words[1:]).exit_code == 0
    assert horefine("merge", out).exit_code == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["complete"] and summary["skipped"] == 1
    (out / "summary.json").write_text(json.dumps(summary | {"skipped": 0}))  # p0 was finished before, and said so
    shutil.copytree(whole, tmp_path / "whole")
    for name in ("items/p0", "items/p1"):  # without its neighbour p1 is the same but for the last digits
        shutil.rmtree(out / name)
        shutil.rmtree(tmp_path / "whole" / name)
    for name in ("summary.csv", "summary.json", "report.html"):
        (out / name).unlink()
        (tmp_path / "whole" / name).unlink()
    assert_same(tmp_path / "whole", out)


def test_a_shard_goes_on_where_it_was_stopped(photos: Path, parts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(parts[0], out)
    record = json.loads((out / "shards" / "1-of-3.json").read_text())
    (out / "shards" / "1-of-3.json").write_text(json.dumps(record | {"ended": False}))
    shutil.rmtree(out / "items" / "p1")  # killed after p0
    assert merge(out).missing == ["p1"]
    stamp = (out / "items" / "p0" / "result.json").stat().st_mtime_ns
    assert refine(photos, out, "--shard", "1/3").exit_code == 0
    assert names_in(out) == {"p0", "p1"} and (out / "items" / "p0" / "result.json").stat().st_mtime_ns == stamp
    assert json.loads((out / "shards" / "1-of-3.json").read_text())["skipped"] == ["p0"]


def test_what_failed_is_in_the_summary_as_in_the_undivided_run(photos: Path, tmp_path: Path) -> None:
    images = tmp_path / "photos"
    shutil.copytree(photos, images)
    (images / "maps" / "p3.npz").unlink()
    assert refine(images, tmp_path / "whole", "--no-pictures").exit_code == 4
    codes = [refine(images, tmp_path / "out", "--no-pictures", "--shard", f"{k}/3").exit_code for k in (1, 2, 3)]
    assert codes == [0, 4, 0]
    result = horefine("merge", tmp_path / "out")
    assert result.exit_code == 4 and "ERROR: p3: no p3.npz in" in result.stderr
    assert "shard 2/3: 1 failed (p3): horefine run" in result.stderr
    rows = [(tmp_path / name / "summary.csv").read_text().splitlines()[4] for name in ("whole", "out")]
    assert rows[0] == rows[1] and rows[0].startswith("p3,failed,,input,")


def test_neighbours_of_what_cannot_be_read_are_those_of_the_undivided_run(photos: Path, tmp_path: Path) -> None:
    images = tmp_path / "photos"
    shutil.copytree(photos, images)
    (images / "maps" / "p0.npz").unlink()  # p1 is alone then, in either
    outs = tmp_path / "whole", tmp_path / "out"
    assert refine(images, outs[0], "--no-pictures").exit_code == 4
    assert [refine(images, outs[1], "--no-pictures", "--shard", f"{k}/3").exit_code for k in (1, 2, 3)] == [4, 0, 0]
    for name in NAMES[1:]:
        assert_same(*(out / "items" / name for out in outs))


# --- what does not belong together -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--set", "losses.silhouette=0.25", "--shard", "2/3"), "differ in recipe: .*silhouette"),
        (("--seed", 1, "--shard", "2/3"), "differ in seed: 0 and 1"),
        (("--shard", "2/4"), "differ in into how many shards: 3 and 4"),
        (("--batch-size", 1, "--shard", "2/3"), "differ in --batch-size: 2 and 1"),
        (("--limit", 4, "--shard", "2/3"), "differ in how many images, or which: 5 and 4"),
    ],
)
def test_shards_of_different_runs_are_refused(
    words: tuple[object, ...], said: str, photos: Path, parts: list[Path], tmp_path: Path
) -> None:
    assert refine(photos, tmp_path / "other", "--no-pictures", *words).exit_code == 0
    with pytest.raises(ConfigError, match=said):
        merge(tmp_path / "out", [parts[0], tmp_path / "other"])
    assert not (tmp_path / "out").exists()
    result = horefine("merge", tmp_path / "out", parts[0], tmp_path / "other")
    assert result.exit_code == 2 and "merge the shards of one run" in result.stderr


def test_shards_of_other_images_are_refused(photos: Path, parts: list[Path], tmp_path: Path) -> None:
    images = tmp_path / "photos"
    shutil.copytree(photos, images)
    assert refine(images, tmp_path / "other", "--no-pictures", "--shard", "2/3").exit_code == 0
    with pytest.raises(ConfigError, match="differ in images: "):
        merge(tmp_path / "out", [parts[0], tmp_path / "other"])


def test_one_image_from_two_inputs_is_refused(parts: list[Path], tmp_path: Path) -> None:
    shutil.copytree(parts[0], tmp_path / "other")
    path = tmp_path / "other" / "items" / "p1" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"input_hash": "0123456789"}))
    result = horefine("merge", tmp_path / "out", parts[0], tmp_path / "other")
    assert result.exit_code == 4 and "p1: was refined from one input in" in result.stderr


def test_a_result_of_another_recipe_counts_as_missing(parts: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(parts[0], out)
    path = out / "items" / "p1" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"config_hash": "0123456789"}))
    assert merge(out).missing == ["p1"]


def test_a_folder_without_shards_is_no_run_in_parts(whole: Path, tmp_path: Path) -> None:
    for out in (whole, tmp_path / "nothing"):
        result = horefine("merge", out)
        assert result.exit_code == 2 and "holds no shards" in result.stderr
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "1-of-2.json").write_text("{")
    result = horefine("merge", tmp_path)
    assert result.exit_code == 4 and "1-of-2.json: damaged" in result.stderr
