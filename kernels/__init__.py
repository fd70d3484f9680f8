"""Vote kernels: arrays in, counts out. Imported as ``chorus.kernels``; this file stays free of imports."""

# Some versions of transformers see this folder as a package called "kernels" and read its version. Version 0 is older than any
# they would use.
__version__ = "0"
