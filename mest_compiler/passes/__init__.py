"""Compiler passes from the traced step to kernels: one pass a file, their order in `pipeline`."""
