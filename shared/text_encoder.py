"""A text encoder from a folder or a hub: loaded safely and silently, by servers and by silos that adapt it.

Needs transformers and torch, which neither a device nor an auditor has: nothing here is imported before it is called.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shared.device import Device, processor
from shared.errors import FetchError

if TYPE_CHECKING:
    import torch

NO_MODEL: Final = "none"
MAX_TOKENS: Final = 128


def load_text_encoder(model: str, device: Device = "cpu") -> tuple[Any, Any]:
    """Tokenizer and model, in evaluation mode; safetensors only, no code of the hub.

    Args:
        model: a folder or Hugging Face name.
        device: where the model goes.

    Raises:
        FetchError: it cannot be loaded.
        ConfigError: no such device here.
    """
    from transformers import AutoModel, AutoTokenizer  # noqa: PLC0415 - heavy import

    where = processor(device)
    with _quiet_transformers():
        try:
            # Safetensors only: other weight files are pickles, which run code when they are opened.
            tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
            encoder = AutoModel.from_pretrained(model, trust_remote_code=False, use_safetensors=True)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise FetchError(
                f"text encoder {model!r} cannot be loaded ({type(error).__name__}: {_first_line(error)}); give a "
                f"folder with a Hugging Face model, a name that the hub knows, or {NO_MODEL!r} for word statistics only"
            ) from error
    return tokenizer, encoder.eval().to(where)


def mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(..., d) mean of (..., t, d) over the t positions whose (..., t) mask is 1; padding never counts."""
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(dim=-2) / weights.sum(dim=-2).clamp(min=1.0)


def encoder_identity(model: str) -> str:
    """A folder is what its files hold, wherever it lies; a name is a name."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return model
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in {".json", ".safetensors", ".txt", ".model"}:
            with path.open("rb") as stream:
                digest.update(f"{path.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "no reason given")[:200]


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Loading draws progress bars and warns of unused heads; a library stays silent."""
    from transformers.utils import logging  # noqa: PLC0415 - heavy import

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
