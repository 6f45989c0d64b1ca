"""Differentiable rendering: one function, several backends (see :func:`render`)."""

from horefine.render.backends import OUTPUTS, RENDERERS, render
from horefine.render.renderer import Render, Renderer, make_renderer
from horefine.render.topology import Topology

__all__ = ["OUTPUTS", "RENDERERS", "Render", "Renderer", "Topology", "make_renderer", "render"]
