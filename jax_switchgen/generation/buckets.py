"""The short lists of static sizes that programs are compiled for."""

import dataclasses

# Documents are read in larger chunks: matmuls of 24 rows run at half the rate of 128,
# and each call copies what was read before.
LONG_CHUNK = 128
LONG_READ = 256  # so that usual prompts need no further compiled program

# Of all rows of a call. On every TPU so many are bound by FLOPs, not by reading the
# weights, and their attention's scores stay on the chip: 64 rows of 128 tokens in calls
# of 8 rows take v6e two thirds of the time of one call, and 8 are compiled in two
# thirds of the time (docs/tpu.md).
MOST_READ = 1024

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

    def reads(self, tokens: int) -> tuple[int, ...]:
        """The batches that read so many tokens of each row: of `MOST_READ` in all."""
        small = tuple(size for size in self.batch if size * tokens <= MOST_READ)
        return small or self.batch[:1]

    def rows_to_read(self, count: int, tokens: int) -> int:
        """How many of `count` rows to read in the next call, `tokens` of each. Padding
        rows cost as much as real ones in reading, so batches are 3/4 full: of 5 rows 4,
        and then 1."""
        size = self.rows(min(count, self.reads(tokens)[-1]))
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


def buckets_for(batch_size: int, longest_segment: int) -> Buckets:
    """Of passes of so many rows, that write segments and read those of others."""
    return Buckets(batch_buckets(batch_size), chunk_for(longest_segment))


def cache_length_for(tokens: int) -> int:
    """The next cache length of the list 256, 384, 512, 768, 1024, 1536, …"""
    length = 256
    while length < tokens:
        length = length * 3 // 2 if length & (length - 1) == 0 else length * 4 // 3
    return length
