"""Worlds with known truth: posed people, objects rigid to a body part, cameras and masks, all drawn at random."""

from chorus.simulate.images import simulate, true_occupancy, write_world

__all__ = ["simulate", "true_occupancy", "write_world"]
