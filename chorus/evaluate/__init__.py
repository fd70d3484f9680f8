"""How good it is: judged against known truth and against other people's data, with what it was measured on."""

from chorus.evaluate.environment import machine, versions

__all__ = ["machine", "versions"]
