"""The short lists of static sizes that programs are compiled for."""

import dataclasses

# Documents are read in larger chunks: matmuls of 24 rows run at half the rate of 128,
# and each call copies what was read before.
LONG_CHUNK = 128
LONG_READ = 256  # so that usual prompts need no further compiled program

WINDOWS = 4  # lengths up to which a cache is read: its quarters


@dataclasses.dataclass(frozen=True)
class Buckets:
    """The static sizes that programs are compiled for.

    Attributes:
      batch: rows of a pass, ascending; the last is the largest pass.
      chunk: tokens of a row that one call of prefill reads. A long prompt takes
        several calls, and compiles nothing new.
    """

    batch: tuple[int, ...]
    chunk: int = 32

    def rows(self, count: int) -> int:
        """The smallest batch of at least `count` rows."""
        return next(size for size in self.batch if size >= count)

    def rows_to_read(self, count: int) -> int:
        """How many of `count` rows to read in the next call. Padding rows cost as much
        as real ones in reading, so batches are 3/4 full: of 5 rows 4, and then 1."""
        size = self.rows(min(count, self.batch[-1]))
        if 4 * count >= 3 * size:
            return min(count, size)
        return self.batch[self.batch.index(size) - 1]


def batch_buckets(batch_size: int) -> tuple[int, ...]:
    """Powers of two up to `batch_size`, and itself: 6 -> (1, 2, 4, 6)."""
    powers = [2**i for i in range(batch_size.bit_length()) if 2**i < batch_size]
    return (*powers, batch_size)


def chunk_for(tokens: int) -> int:
    """For reads of that length: 24 tokens or more, a multiple of 8, or an equal part.

    32 -> 32, 50 -> 56, 69 -> 72, 200 -> 104. One forward with little padding: 72 tokens
    of 4 rows take 0.8x, of 8 rows 0.9x the time of three forwards of 24, on 2 cores.
    """
    parts = -(-tokens // LONG_CHUNK)
    return max(24, -(-tokens // (8 * parts)) * 8)


def cache_length_for(tokens: int) -> int:
    """The next cache length of the list 256, 384, 512, 768, 1024, 1536, …"""
    length = 256
    while length < tokens:
        length = length * 3 // 2 if length & (length - 1) == 0 else length * 4 // 3
    return length
