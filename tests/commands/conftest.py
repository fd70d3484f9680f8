"""Fixtures of the commands' tests."""

from tests.frontend.servers import serve as serve
