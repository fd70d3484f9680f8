"""The probability of the object around the canonical human, and what may be asked of it: posed, as a surface, by cluster."""

from chorus.occupancy.counts import Occupancy, load_occupancy

__all__ = ["Occupancy", "load_occupancy"]
