"""The benchmark suite: ``python -m bench``. No figure without its correctness check."""

from bench.harness.paths import import_torch_without_spaces

import_torch_without_spaces()  # here, as every command imports this before torch
