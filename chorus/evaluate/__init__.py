"""Evaluation: against simulated truth and against annotated photographs, with machine and versions for every figure."""

from chorus.provenance import machine, versions

__all__ = ["machine", "versions"]
