"""Measurements against public peers and physical floors: `python -m benchmarks.<subject>`."""
