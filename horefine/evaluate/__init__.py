"""Evaluation: errors of many items, intervals, tables, comparisons, checks of what is evaluated, submission files.

>>> from horefine.evaluate import score, Scores, metric_rows, to_markdown
"""

from horefine.evaluate.catalogue import METRICS, chosen
from horefine.evaluate.intervals import interval
from horefine.evaluate.scores import Scores, score
from horefine.evaluate.tables import group_rows, metric_rows, to_csv, to_latex, to_markdown

__all__ = [
    "METRICS", "Scores", "chosen", "group_rows", "interval", "metric_rows", "score", "to_csv", "to_latex",
    "to_markdown",
]  # fmt: skip
