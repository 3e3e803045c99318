"""Schedules: how kernels are computed; a folder a kind of device, a generator a kernel, its knobs and defaults."""
