"""The benchmark suite: ``python -m bench``. No figure without its correctness check."""
