from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from shared.device import processor
from shared.errors import ConfigError


@pytest.mark.parametrize(("there", "taken"), [(True, "cuda"), (False, "cpu")])
def test_auto_takes_the_gpu_where_there_is_one(monkeypatch, there, taken):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert processor("auto") == taken


def test_a_gpu_that_is_not_there_is_a_sentence(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match='device = "cuda": torch finds no CUDA GPU on this machine; "auto" takes one'):
        processor("cuda")


def test_the_cpu_is_known_without_torch():
    code = "import sys; from shared.device import processor; print(processor('cpu'), 'torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["cpu", "False"]
