"""Benchmarks of gankern against its peers."""
