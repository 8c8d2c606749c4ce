"""Which processor computes what torch computes: the text encoder and local training, never clipping, grids or noise."""

from __future__ import annotations

from typing import Literal

from shared.errors import ConfigError

Device = Literal["auto", "cpu", "cuda"]
Processor = Literal["cpu", "cuda"]


def processor(wanted: Device) -> Processor:
    """Of "auto", the GPU where torch finds one. Imports torch unless the answer is known without it.

    Raises:
        ConfigError: "cuda" where torch finds no GPU.
    """
    if wanted == "cpu":
        return "cpu"
    import torch  # noqa: PLC0415 - heavy import

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise ConfigError(
            'device = "cuda": torch finds no CUDA GPU on this machine; "auto" takes one where there is one'
        )
    return "cpu"
