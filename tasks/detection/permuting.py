"""Shuffled orders of which one place is known without drawing the others, so that a plan costs what it draws.

A permutation of n places is a bijection of the smallest power of two that holds them, made of keyed multiplications
and shifts, applied again to what falls outside until it falls inside.
"""

import numpy as np

from media.audioset import GOLDEN, mix

# D places, all arrays of this shape or what broadcasts to it


SMALLEST_DOMAIN, MIXINGS = 64, 5  # with less, some orders of a few places come too often


def keys_of(*parts: np.ndarray | int) -> np.ndarray:
    """A number for each combination of whole numbers, uint64, that tells nothing about another's."""
    key = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for part in parts:
            key = mix(key + GOLDEN + mix(np.asarray(part).astype(np.uint64) + GOLDEN))
    return key


def permuted_places(places: np.ndarray, sizes: np.ndarray | int, keys: np.ndarray) -> np.ndarray:
    """Where each place stands in the shuffled order of its key: 0 <= places < sizes, and so the result, int64."""
    shape = np.broadcast_shapes(places.shape, np.shape(sizes), keys.shape)
    x, sizes, keys = (np.broadcast_to(v, shape).astype(np.uint64) for v in (places, sizes, keys))
    out, where = np.zeros(shape, np.int64), np.flatnonzero(sizes > 1)
    x, sizes, keys = x[where], sizes[where], keys[where]
    bits = np.ceil(np.log2(np.maximum(sizes, SMALLEST_DOMAIN))).astype(np.uint64)
    while len(where):
        x = _bijection(x, bits, keys)
        inside = x < sizes
        out[where[inside]] = x[inside]
        again = ~inside
        x, sizes, bits, keys, where = (v[again] for v in (x, sizes, bits, keys, where))
    return out


def _bijection(x: np.ndarray, bits: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Of the numbers below 2 ** bits onto themselves."""
    mask = (np.uint64(1) << bits) - np.uint64(1)
    shift = (bits + np.uint64(1)) >> np.uint64(1)
    with np.errstate(over="ignore"):
        for _ in range(MIXINGS):
            keys = mix(keys + GOLDEN)
            x = ((x + (keys >> np.uint64(32))) * (keys | np.uint64(1))) & mask
            x = x ^ (x >> shift)
    return x
