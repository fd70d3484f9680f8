"""Estimators that are not recommended for general use: what each gains, and where it fails, is said where it is offered."""
