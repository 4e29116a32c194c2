"""Which random numbers a micro-batch gets: those of its place in the run, so a resume draws them again."""


def dropout_seed(seed: int, step: int, rank: int, micro_batch: int) -> int:
    """Return a 63-bit seed that differs wherever any of the four does."""
    value = 0
    for part in (seed, step, rank, micro_batch):
        value = (value ^ part) * 0x9E3779B97F4A7C15 % 2**64
        value ^= value >> 31
    return value >> 1
