"""What the compilers make of the kernels, read from their machine code; needs no device."""
