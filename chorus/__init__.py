"""CHORUS engine: where an object is around a canonical human, learned from very many images."""

__version__ = "0.1.0"
