"""Randomness as a function: hashes of (key, counter) instead of generators with a state.

Everything drawn for a sample or a step depends on names (seed, epoch, sample id) and on nothing that happened before,
so any process can draw it, in any order, any number of times.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_ROUNDS = 8


def key(*parts: Any) -> int:
    """A 64-bit key from names and numbers; different parts give unrelated keys."""
    digest = hashlib.blake2b("\0".join(map(str, parts)).encode(), digest_size=8)
    return int.from_bytes(digest.digest(), "little")


def mix(x: U64) -> U64:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): a bijection of 64-bit words in which every bit matters."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def uniforms(seed_key: int, ids: npt.ArrayLike, draws: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1), shape (len(ids), draws): row i depends on ``seed_key`` and ``ids[i]`` alone."""
    rows = mix(np.asarray(ids, dtype=np.int64).astype(np.uint64) * _GOLDEN + np.uint64(seed_key))
    counters = (np.arange(1, draws + 1, dtype=np.uint64)) * _GOLDEN
    return (mix(rows[:, None] + counters[None, :]) >> np.uint64(11)).astype(np.float64) * 2.0**-53


class Permutation:
    """A keyed pseudo-random permutation of ``range(n)``, evaluated at a position in O(1) memory.

    A Feistel network over Z_a x Z_b with a * b just above n, and cycle walking for the few values beyond n (Black &
    Rogaway 2002, "Ciphers with arbitrary finite domains"). ``tweak`` selects one of 2^64 unrelated permutations for
    each position, so that many small permutations are evaluated in one call.
    """

    def __init__(self, n: int, seed_key: int) -> None:
        assert n >= 1, "a permutation of nothing"
        self.n = n
        self._a = max(1, int(np.ceil(np.sqrt(n))))
        self._b = -(-n // self._a)
        self._keys = [np.uint64(key(seed_key, i)) for i in range(_ROUNDS)]

    def __call__(self, positions: npt.ArrayLike, tweak: npt.ArrayLike = 0) -> I64:
        """Where each position goes: int64, the shape of ``positions``, every value in ``range(n)``."""
        return self._walk(positions, tweak, forward=True)

    def inverse(self, values: npt.ArrayLike, tweak: npt.ArrayLike = 0) -> I64:
        """The positions that go to ``values``."""
        return self._walk(values, tweak, forward=False)

    def _walk(self, inputs: npt.ArrayLike, tweak: npt.ArrayLike, *, forward: bool) -> I64:
        start = np.asarray(inputs, dtype=np.int64)
        x = np.atleast_1d(start).copy()
        tweaks = mix(np.broadcast_to(np.asarray(tweak, dtype=np.int64), x.shape).astype(np.uint64) * _GOLDEN + _GOLDEN)
        x = self._rounds(x, tweaks, forward)
        while (outside := np.nonzero(x >= self.n)[0]).size:
            x[outside] = self._rounds(x[outside], tweaks[outside], forward)
        return x.reshape(start.shape)

    def _rounds(self, x: I64, tweaks: U64, forward: bool) -> I64:
        left, right = np.divmod(x, self._b)
        sign = 1 if forward else -1
        for i in range(_ROUNDS) if forward else reversed(range(_ROUNDS)):
            if i % 2 == 0:
                left = (left + sign * self._draw(right, tweaks, i, self._a)) % self._a
            else:
                right = (right + sign * self._draw(left, tweaks, i, self._b)) % self._b
        return left * self._b + right

    def _draw(self, half: I64, tweaks: U64, i: int, modulus: int) -> I64:
        # The top 32 bits times the modulus: a multiplication where a remainder would be ten times slower.
        words = mix(half.astype(np.uint64) * _GOLDEN + (tweaks ^ self._keys[i])) >> np.uint64(32)
        return ((words * np.uint64(modulus)) >> np.uint64(32)).astype(np.int64)
