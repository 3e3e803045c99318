"""Timing side by side: every contestant in a process of its own, in alternating rounds, on the same data and
threads."""
