"""Benchmarks against other packages; see README.md."""
