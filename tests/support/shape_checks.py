"""The checker that every function of the package runs under in tests: beartype, with an int welcome where a float is."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
