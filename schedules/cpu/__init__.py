"""Kernels for CPUs with vector units: activations in batch tiles of one vector of lanes."""
