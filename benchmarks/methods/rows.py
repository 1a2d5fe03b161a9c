"""The values of a split's rows as a line of the results file has them."""

import base64

import numpy as np


def packed(values: np.ndarray) -> str:
    """(n,) values from 0 to 1 as base64, after a letter that says how: bits (`b`) if all are 0 or 1, else bytes of
    1/255 (`v`)."""
    if np.isin(values, (0, 1)).all():
        return "b" + base64.b64encode(np.packbits(values.astype(bool))).decode()
    return "v" + base64.b64encode(np.rint(values * 255).astype(np.uint8)).decode()


def unpacked(text: str, rows: int) -> np.ndarray:
    """What `packed` packed, (rows,) float64."""
    data = np.frombuffer(base64.b64decode(text[1:]), np.uint8)
    return np.unpackbits(data, count=rows).astype(float) if text[0] == "b" else data / 255
