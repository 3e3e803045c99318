"""The index arrays that kernels read: their forms, and how each is filled from a structure."""
