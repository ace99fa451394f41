"""Filters on what a search finds, in mem0's form: {"key": value}, {"key": {"gte": value}}, and AND, OR, NOT of lists of those.

A key is a field of the memory ("run_id", "created_at") or of its metadata. A memory without the key fits only "ne" and "nin".
"""

from collections.abc import Callable, Mapping
from typing import Any

from mr1jax.config import require
from mr1jax.service.records import Memory

_ABSENT = object()
_FIELDS = ("id", "user_id", "agent_id", "run_id", "created_at", "updated_at", "expires_at")
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda value, wanted: value == wanted,
    "ne": lambda value, wanted: value != wanted,
    "in": lambda value, wanted: value in wanted,
    "nin": lambda value, wanted: value not in wanted,
    "gt": lambda value, wanted: value > wanted,
    "gte": lambda value, wanted: value >= wanted,
    "lt": lambda value, wanted: value < wanted,
    "lte": lambda value, wanted: value <= wanted,
    "contains": lambda value, wanted: wanted in value,
    "icontains": lambda value, wanted: wanted.lower() in value.lower(),
}
_FITS_ABSENT = ("ne", "nin")
_DEEPEST = 10


def check_filters(filters: Any, depth: int = 0) -> None:
    """Raises ValueError where filters are none of this form."""
    if filters is None:
        return
    require(depth <= _DEEPEST, f"filters are nested more than {_DEEPEST} deep; write them flatter")
    require(isinstance(filters, Mapping), f"a filter is {filters!r:.60}; give a dict of conditions")
    for key, condition in filters.items():
        if key in ("AND", "OR", "NOT"):
            require(isinstance(condition, list), f"{key} in a filter has {condition!r:.60}; give it a list of filters")
            for each in condition:
                check_filters(each, depth + 1)
        elif isinstance(condition, Mapping):
            unknown = [name for name in condition if name not in _COMPARE]
            require(not unknown, f"the filter of {key!r:.40} has {next(iter(unknown), '')!r:.40}; choose among {', '.join(_COMPARE)}")
            lists = all(isinstance(wanted, list) for name, wanted in condition.items() if name in ("in", "nin"))
            require(lists, f"the filter of {key!r:.40} needs a list for in and nin; give one")


def fits(memory: Memory, filters: Mapping[str, Any]) -> bool:
    """Tells whether a memory fits all conditions."""
    return all(_fits_one(memory, key, condition) for key, condition in filters.items())


def _fits_one(memory: Memory, key: str, condition: Any) -> bool:
    if key == "AND":
        return all(fits(memory, each) for each in condition)
    if key == "OR":
        return any(fits(memory, each) for each in condition)
    if key == "NOT":
        return not any(fits(memory, each) for each in condition)
    value = getattr(memory, key) if key in _FIELDS else memory.metadata.get(key, _ABSENT)
    wanted = condition if isinstance(condition, Mapping) else {"eq": condition}
    return all(_compare(value, name, each) for name, each in wanted.items())


def _compare(value: Any, name: str, wanted: Any) -> bool:
    if value is _ABSENT or value is None:
        return name in _FITS_ABSENT or (name == "eq" and wanted is None and value is None)
    try:
        return bool(_COMPARE[name](value, wanted))
    except (TypeError, AttributeError):  # a number is neither before nor after a text, and contains none
        return False
