"""The type checker of the tests: beartype, with ``float`` accepting an ``int`` as PEP 484 says."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
