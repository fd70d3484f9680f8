"""The commands' tests use what the front end's have."""

from tests.frontend.conftest import serve

__all__ = ["serve"]
