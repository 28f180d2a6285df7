"""The checker that every function of the package runs under in tests: beartype, where an int may be a float."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
