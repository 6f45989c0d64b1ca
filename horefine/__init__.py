"""Refines the 3D pose of a hand and the object it holds, per image, by differentiable rendering and contact.

>>> from horefine import refine, Pose, Features
>>> result = refine(pose, features)  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

logging.getLogger("horefine").addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from horefine.clip import refine_clip
    from horefine.config import Config, load_config
    from horefine.geometry import Camera
    from horefine.hand import HandModel, load_hand
    from horefine.inverse_kinematics import joints_to_pose
    from horefine.mesh import Mesh
    from horefine.objects import embedded_object
    from horefine.refined import Refinement
    from horefine.refinement import refine
    from horefine.scene import Contact, Features, Pose, Scene
    from horefine.stream import refine_stream

_HOMES = {
    "Camera": "geometry",
    "Config": "config",
    "Contact": "scene",
    "Features": "scene",
    "HandModel": "hand",
    "Mesh": "mesh",
    "Pose": "scene",
    "Refinement": "refined",
    "Scene": "scene",
    "embedded_object": "objects",
    "joints_to_pose": "inverse_kinematics",
    "load_config": "config",
    "load_hand": "hand",
    "refine": "refinement",
    "refine_clip": "clip",
    "refine_stream": "stream",
}

__all__ = [
    "Camera",
    "Config",
    "Contact",
    "Features",
    "HandModel",
    "Mesh",
    "Pose",
    "Refinement",
    "Scene",
    "embedded_object",
    "joints_to_pose",
    "load_config",
    "load_hand",
    "refine",
    "refine_clip",
    "refine_stream",
]


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: ``import horefine`` alone does not load torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'horefine' has no attribute {name!r}; public: {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"horefine.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
