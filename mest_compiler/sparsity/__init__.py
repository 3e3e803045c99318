"""Where the kept weights are: schemes, profiles, masks and index arrays. NumPy only; imports nothing above
it."""
