"""What a network must be told of its images: how pixels become its input, and what its answers are.

    {"channels": 3, "height": 32, "width": 32, "pixels": "0..1", "mean": [..], "deviation": [..],
     "classes": [..]}

A run keeps it in `images.json`; networks that are taken home have it in their manifest.
"""

from __future__ import annotations

from spacelang.backends.torch.data.datasets import Dataset

IMAGES = "images.json"


def preprocessing(data: Dataset) -> dict[str, object]:
    """Of a data set: input = (pixels - mean) / deviation by channel, pixels in 0..1; and the
    classes, in the order of the outputs."""
    channels, height, width = data.shape
    return {
        "channels": channels,
        "height": height,
        "width": width,
        "pixels": "0..1",
        "mean": list(data.train.mean),
        "deviation": list(data.train.deviation),
        "classes": list(data.classes),
    }


__all__ = ["IMAGES", "preprocessing"]
