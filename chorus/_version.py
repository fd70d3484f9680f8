"""The version, in the one place it is written; what is built takes it from here."""

__version__ = "0.1.0"
