"""Random permutations that can be evaluated at single positions, so that a plan costs only what it draws.

A permutation of n positions is a bijection on the smallest sufficient power of two, built from keyed
multiplications and shifts. Results of n or more are mapped again until they are below n (cycle walking).
"""

import numpy as np

from media.audioset import GOLDEN, mix

# D positions; all arrays have this shape or broadcast to it


# With a smaller domain or fewer rounds, some orders of a few positions come too often.
SMALLEST_DOMAIN, MIXINGS = 64, 5


def keys_of(*parts: np.ndarray | int) -> np.ndarray:
    """Hash integers to a uint64 key per combination; keys of different combinations are unrelated."""
    key = np.zeros((), np.uint64)
    # uint64 arithmetic is meant to wrap around; NumPy warns about that for scalars.
    with np.errstate(over="ignore"):
        for part in parts:
            key = mix(key + GOLDEN + mix(np.asarray(part).astype(np.uint64) + GOLDEN))
    return key


def permute(places: np.ndarray, sizes: np.ndarray | int, keys: np.ndarray) -> np.ndarray:
    """Return the position of each place in the shuffled order of its key, int64; 0 <= places < sizes."""
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
    """Map the integers below 2 ** bits one-to-one onto themselves."""
    mask = (np.uint64(1) << bits) - np.uint64(1)
    shift = (bits + np.uint64(1)) >> np.uint64(1)
    with np.errstate(over="ignore"):
        for _ in range(MIXINGS):
            keys = mix(keys + GOLDEN)
            # Invertible steps: addition, multiplication by an odd number, and xor with the upper half.
            x = ((x + (keys >> np.uint64(32))) * (keys | np.uint64(1))) & mask
            x = x ^ (x >> shift)
    return x
