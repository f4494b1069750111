"""Measurements against public peers and physical floors: `python -m benchmarks.<subject>`."""

import os

# numpy's OpenBLAS threads spin for about 0.1 s after their work, on cores that the next rival has its turn on; at 4
# (2^4 cycles) they go to sleep at once. It is read when numpy is imported, so it stands here.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "4")
