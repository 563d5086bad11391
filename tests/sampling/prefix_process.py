"""Puts and finds prefixes in a folder that other processes use too; run by a test."""

import random
import sys

import numpy as np

from gru_mem_jax.sampling.prefix_store import PrefixStore


def prefix(number):
    """Token ids and arrays that follow from the number alone."""
    rng = np.random.default_rng(number)
    ids = rng.integers(0, 1000, 20 + number, dtype=np.int32)
    return ids, rng.normal(size=(2, 2, 1, len(ids), 8)).astype(np.float32)


def main(folder, seed, rounds):
    luck = random.Random(int(seed))
    found = 0
    for _ in range(int(rounds)):
        # A new store each time: nothing is known of the folder, as in a new process.
        store = PrefixStore("one", 0, folder, disk_bytes=30_000, on_note=sys.exit)
        for _ in range(4):
            ids, arrays = prefix(luck.randrange(12))
            if store.wants(ids) and luck.random() < 0.7:
                store.put(ids, arrays)
            if (stored := store.find(ids, 1)) is not None:
                assert stored.length == len(ids)
                np.testing.assert_array_equal(stored.arrays, arrays)
                found += 1
    sys.stdout.write(f"{found}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
