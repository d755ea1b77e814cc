"""What general compressors need for the same bytes: the yardstick for a byte-level language model."""

from __future__ import annotations

import gzip
import lzma
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

__all__ = ["CompressorBits", "compressor_bits"]


@dataclass(frozen=True)
class CompressorBits:
    """Bits per byte of the held-out text: gzip -9, xz -9, and xz -9 that has read the training text first."""

    gzip: float
    xz: float
    xz_after_training_text: float


def compressor_bits(held_out: bytes, training: bytes) -> CompressorBits:
    """Compress ``held_out`` alone, and behind ``training`` (size of both minus size of ``training``).

    Cost: about 5 s for 9 MB of training text; the compressors run side by side, outside the interpreter's lock.

    >>> bits = compressor_bits(b"abcd" * 100, b"abcd" * 100)
    >>> bits.gzip < 1, bits.xz_after_training_text < bits.xz
    (True, True)
    """
    with ThreadPoolExecutor() as pool:
        alone = pool.submit(_xz, held_out)
        before = pool.submit(_xz, training)
        behind = pool.submit(_xz, training + held_out)
        scale = 8 / len(held_out)
        return CompressorBits(
            gzip=len(gzip.compress(held_out, compresslevel=9)) * scale,
            xz=alone.result() * scale,
            xz_after_training_text=(behind.result() - before.result()) * scale,
        )


def _xz(text: bytes) -> int:
    return len(lzma.compress(text, preset=9))
