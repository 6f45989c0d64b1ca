"""``python -m horefine`` is the command ``horefine``."""

from horefine.cli import main

main()
