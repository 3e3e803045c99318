"""A compiler for sparse training on phones."""
