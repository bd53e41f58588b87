# SPDX-License-Identifier: Apache-2.0
"""The bytes that pattern_fill() of test/lib/program.c writes."""

MASK = (1 << 64) - 1


def pattern(count, seed):
    """So many of them."""
    words = bytearray()
    for index in range((count + 7) // 8):
        x = ((seed + 1) * 0x9E3779B97F4A7C15 + index * 0xBF58476D1CE4E5B9) & MASK
        words += (((x ^ x >> 29) * 0x94D049BB133111EB) & MASK).to_bytes(8, "little")
    return bytes(words[:count])
