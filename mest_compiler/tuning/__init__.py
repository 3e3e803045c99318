"""Measured decisions: which of several kernels is the fastest on this device."""
