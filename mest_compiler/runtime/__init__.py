"""Artifacts, and the sessions and trainer that run them."""
