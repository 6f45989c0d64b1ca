"""What the commands can be told: each option once, as an annotated type."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

__all__ = [
    "Address",
    "AsJson",
    "BatchSize",
    "Boxes",
    "Checkpoint",
    "Clip",
    "DatasetName",
    "Device",
    "DryRun",
    "EngineName",
    "Every",
    "Finder",
    "Fov",
    "Fps",
    "Gpus",
    "HandKind",
    "Images",
    "Init",
    "Intrinsics",
    "Limit",
    "ManoDir",
    "Maps",
    "ObjectName",
    "ObjectUnit",
    "Out",
    "Overwrite",
    "Part",
    "Pictures",
    "Quiet",
    "RayWorkers",
    "Recipe",
    "RendererName",
    "Root",
    "RunBatch",
    "Seed",
    "Sets",
    "Side",
    "Split",
    "Strict",
    "Threads",
    "TrainedOn",
    "Verbose",
    "Wrist",
    "option",
]


def option(help: str, *names: str, **settings: Any) -> Any:
    """An option of a command, its help first; without names it is called as its parameter."""
    return typer.Option(*names, help=help, **settings)


Images = Annotated[Path | None, typer.Argument(help="A folder of photographs, or one photograph.")]
Out = Annotated[Path, option("Where results go.", "--out", "-o")]
DatasetName = Annotated[
    str | None,
    option(
        "A dataset instead of a folder (docs/datasets.md): dexycb, ho3d, fhb, obman, bop; NAME:key=value,...",
        "--dataset",
    ),
]
Root = Annotated[Path | None, option("Where that dataset lies.")]
Split = Annotated[str | None, option("Its split, e.g. s0/test (default: the dataset's test split).")]
Init = Annotated[str, option("First poses: a network's name, or a folder of NAME.npz / NAME.json.")]
Finder = Annotated[
    str, option("What finds hand and object: horefine, or mediapipe (side and hand; installed apart).", "--detector")
]
Checkpoint = Annotated[
    Path | None, option("Weights for --init: the authors' snapshot_*.pth.tar (needs MANO), or a .safetensors of ours.")
]
TrainedOn = Annotated[
    str | None,
    option("What a published gSDF or C2F-SDF --checkpoint was trained on: dexycb or obman.", "--trained-on"),
]
Maps = Annotated[Path | None, option("A folder of maps NAME.npz, instead of the networks.")]
Recipe = Annotated[
    str,
    option(
        "Recipe: a name or a YAML file (auto: default with --features, rgbd with c2fsdf, else pixels).",
        "--config",
        "-c",
    ),
]
Sets = Annotated[list[str] | None, option("Change a value, e.g. losses.silhouette=0.", "--set", metavar="KEY=VALUE")]
ObjectName = Annotated[str | None, option("What is held: an embedded object's name or a mesh file.", "--object")]
ObjectUnit = Annotated[str | None, option("Unit of the mesh: m, cm, mm, in (default: by its size).")]
Intrinsics = Annotated[str | None, option("fx,fy,cx,cy in pixels, a .json or .npy file, or exif.")]
Fov = Annotated[float | None, option("Diagonal field of view in degrees, instead of intrinsics.")]
Side = Annotated[str | None, option("right or left hand (default: the sidecar's, the detector's, else right).")]
Boxes = Annotated[
    Path | None, option("JSON or CSV with hand and object box of each image (docs/input.md), instead of a detector.")
]
Wrist = Annotated[
    str | None, option("Where the wrist is: x,y,z in metres (camera frame), or its depth z; not predicted then.")
]
ManoDir = Annotated[Path | None, option("Folder with MANO_RIGHT.pkl.")]
HandKind = Annotated[str, option("auto, embedded or mano.")]
Device = Annotated[str, option("auto, cpu, cuda:0.")]
RendererName = Annotated[str, option("auto, cpu, torch, nvdiffrast or pytorch3d.")]
BatchSize = Annotated[int, option("Images refined together.", min=1)]
RunBatch = Annotated[str, option("Images refined together: a number, or auto (by memory).", "--batch-size")]
Limit = Annotated[int | None, option("Only the first N images.", min=1)]
Clip = Annotated[bool, option("The images are the frames of one clip (docs/clips.md); so is a video.", "--clip")]
Every = Annotated[int, option("Of a clip: only each so-manieth frame.", min=1)]
Fps = Annotated[
    float | None, option("Of a clip: frames a second of the folder (default 30); a video is thinned to it.", min=0.1)
]
Seed = Annotated[int, option("Of everything random.")]
Overwrite = Annotated[bool, option("Do finished images again (default: skip them).", "--overwrite")]
Strict = Annotated[bool, option("Stop at the first image that fails.", "--strict")]
Threads = Annotated[
    int | None,
    option("Threads that read and write beside the refinement (default: one for each core; 0: none).", min=0),
]
Part = Annotated[
    str | None,
    option("Only the i-th of n parts, for batch schedulers (docs/distribute.md); then: horefine merge.", metavar="I/N"),
]
EngineName = Annotated[
    str, option("local (this process), or ray: worker processes, also of many machines.", "--engine")
]
Address = Annotated[str | None, option("Of a Ray cluster: auto or HOST:PORT (default: this machine alone).")]
RayWorkers = Annotated[int | None, option("Processes of --engine ray (default: all that fit).", "--workers", min=1)]
Gpus = Annotated[
    float | None, option("Of each process of --engine ray; 0.5: two share one.", "--gpus-per-worker", min=0)
]
Pictures = Annotated[bool, option("Draw overlays and loss curves.", "--pictures/--no-pictures")]
DryRun = Annotated[bool, option("Say what would be done and what is missing.", "--dry-run")]
Verbose = Annotated[bool, option("Say more; show tracebacks.", "--verbose", "-v")]
Quiet = Annotated[bool, option("Errors only.", "--quiet", "-q")]
AsJson = Annotated[bool, option("Print the result as JSON on stdout.", "--json")]
