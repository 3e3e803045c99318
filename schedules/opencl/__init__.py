"""Generators for OpenCL devices, made for a mobile GPU: one file a kernel family, as in `schedules.cpu`."""
