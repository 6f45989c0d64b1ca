"""The benchmark suites: the same held-out scenes for everyone, in memory or as files.

>>> from horefine.suite import make_suite, write_suite, open_suite
"""

from horefine.suite.folder import MANIFEST, load_suite, open_suite, write_suite
from horefine.suite.scenes import SUITES, Suite, SuiteSpec, make_suite, summary

__all__ = [
    "MANIFEST",
    "SUITES",
    "Suite",
    "SuiteSpec",
    "load_suite",
    "make_suite",
    "open_suite",
    "summary",
    "write_suite",
]
