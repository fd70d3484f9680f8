"""Filters (A.3): predicates over the scores that a store keeps, judged when images are selected (docs/filters.md).

rules      the predicates by name: which score each looks at, when an image passes, and its confidence
filtering  ``Filter``: rules with thresholds, hard or soft, in files; what a filter keeps of a store
report     what a filter does to a store, in numbers and as a table for terminals (imported by itself: it needs rich)
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
