"""The definitions, in PyTorch: slow and obvious, on any device. Every backend is held to these."""
