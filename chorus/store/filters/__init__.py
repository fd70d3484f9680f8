"""Filters (A.3): predicates over the scores in a store, evaluated when images are selected (docs/filters.md).

rules      the predicates by name: the score that each tests, when an image passes, and its confidence
filtering  ``Filter``: rules with thresholds, hard or soft; filter files; the rows that a filter keeps
report     what a filter rejects of a store, in numbers and as a table for terminals (imported separately: it needs rich)
"""

from chorus.store.filters.filtering import (
    Filter,
    Filtered,
    FilterSpec,
    filter_rows,
    find_filter,
    read_filter,
    read_store_filter,
    write_store_filter,
)
from chorus.store.filters.rules import RULES, Rule, rule

__all__ = [
    "RULES",
    "Filter",
    "FilterSpec",
    "Filtered",
    "Rule",
    "filter_rows",
    "find_filter",
    "read_filter",
    "read_store_filter",
    "rule",
    "write_store_filter",
]
