"""Images from JPEG and PNG files that nobody vouches for."""

import io
import struct
import warnings

import numpy as np

from .._extras import require
from .held import Held

LARGEST = 1 << 23  # bytes of an image file


def image(
    held: Held, file: str, content: bytes, modes: tuple[str, ...], largest: tuple[int, int], exact=False
) -> np.ndarray:
    """The pixels (H, W) or (H, W, 3) uint8 of an image file with the bytes `content`.

    modes    of Pillow: "RGB", "L" for grey, "P" for a palette, whose numbers are returned.
    largest  (height, width) that an image may have, or must have where `exact`; looked at before it is decoded.

    `DataError` where the file is damaged, or of another kind or size.
    """
    pillow = require("PIL.Image", extra="vision")
    with held.damage(file, "an image"), warnings.catch_warnings():
        warnings.simplefilter("error", pillow.DecompressionBombWarning)
        try:
            with pillow.open(io.BytesIO(content), formats=("JPEG", "PNG")) as opened:
                width, height = opened.size
                wrong = (height, width) != largest if exact else height > largest[0] or width > largest[1]
                if wrong:
                    raise held.error(
                        file, f"{'' if exact else 'at most '}{largest[0]} x {largest[1]} pixels", f"{height} x {width}"
                    )
                if opened.mode not in modes:
                    raise held.error(file, f"an image of mode {' or '.join(modes)}", f"mode {opened.mode}")
                return np.array(opened)
        except (SyntaxError, struct.error, Warning, pillow.DecompressionBombError) as error:
            raise OSError(f"{type(error).__name__}: {error}") from error
