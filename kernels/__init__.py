"""Vote kernels: arrays in, counts out. Imported as ``chorus.kernels``; this file stays free of imports."""
