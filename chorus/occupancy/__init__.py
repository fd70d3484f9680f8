"""The probability of the object around the canonical human: counted, posed, as a surface, by semantic cluster."""

from chorus.occupancy.counts import Occupancy, load_occupancy

__all__ = ["Occupancy", "load_occupancy"]
