"""Filters (A.3): predicates over the scores that a store keeps, judged when images are selected."""
