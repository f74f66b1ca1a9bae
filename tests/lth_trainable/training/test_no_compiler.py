"""What a trial does before its network is made does not import PyTorch's compiler, which takes seconds."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
import torch
from lth_trainable.training import execution
torch.cuda.is_available = lambda: True
for wanted in (True, False):
    with execution.prepared(execution.Execution(device="cuda", deterministic=wanted), "fp32"):
        assert torch.are_deterministic_algorithms_enabled() == wanted
    assert not torch.are_deterministic_algorithms_enabled()
found = [name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules]
assert not found, found
"""


def test_settings_for_a_gpu_need_no_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
