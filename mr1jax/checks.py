"""What refuses a wrong value on the host: each raises `ValueError` with one sentence that names the field, its value and what to do."""

import dataclasses
from typing import Any, Literal, get_args, get_origin


def require(condition: bool, message: str) -> None:
    """Raises `ValueError(message)` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def require_types(config: Any) -> None:
    """Refuses a field that is not of its declared type; a number may be a whole one where fractions are allowed, but no bool."""
    for each in dataclasses.fields(config):
        value: Any = getattr(config, each.name)
        wanted: Any = each.type
        choices = get_args(wanted)
        if get_origin(wanted) is Literal:
            fits, need = isinstance(value, str) and value in choices, f"choose {' or '.join(map(repr, choices))}"
        elif get_origin(wanted) is tuple:
            fits, need = isinstance(value, tuple) and all(isinstance(part, str) for part in value), "give a tuple of names"
        elif wanted is int:
            fits, need = type(value) is int and abs(value) < 2**31, "give a whole number that 32 bits hold"
        elif wanted is float:
            fits, need = type(value) in (int, float) and abs(value) < 1e30, "give a number that float32 holds"
        else:
            fits, need = isinstance(value, wanted), f"give a {wanted.__name__}"
        require(fits, f"{type(config).__name__}.{each.name} is {value!r}; {need}")


def require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(value > 1e-30, f"{type(config).__name__}.{name} is {value}; it must be a number greater than 0, as float32 has them")


def require_between(config: object, low: float, high: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        require(low <= value <= high, f"{type(config).__name__}.{name} is {value}; it must be from {low} to {high}")
