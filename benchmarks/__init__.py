"""Benchmarks against public peers and hardware limits: `python -m benchmarks.<subject>`."""

import os

# The threads of numpy's OpenBLAS spin for about 0.1 s after their work, on cores that the next rival needs. With 4
# (2^4 cycles) they sleep at once. OpenBLAS reads this when numpy is imported, so it is set here.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
