"""Schedules: for each kind of device a generator a kernel, its knobs and their defaults. Open `cpu/` to see how kernels are computed."""
