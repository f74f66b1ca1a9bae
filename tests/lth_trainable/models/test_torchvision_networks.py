"""torchvision's networks come without PyTorch's compiler, and with all that they can do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "it is imported once the question is asked": (
        "from lth_trainable.models.torchvision_networks import models\n"
        "models.resnet18()\n"
        "assert {'torch._dynamo', 'torch._dynamo.utils', 'sympy'}.isdisjoint(sys.modules)\n"
        "roi_align = sys.modules['torchvision.ops.roi_align']\n"
        "answer = roi_align.is_compile_supported('cpu')\n"
        "import torch._dynamo.utils\n"
        "assert answer == torch._dynamo.utils.is_compile_supported('cpu')\n"
        "boxes = [torch.tensor([[0.0, 0.0, 4.0, 4.0]])]\n"
        "assert roi_align.roi_align(torch.ones(1, 3, 8, 8), boxes, 2).shape == (1, 3, 2, 2)\n"
        "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(2)).tolist() == [2, 2]\n"
    ),
    "who wants more of it within the block has the real one": (
        "from lth_trainable.models import torchvision_networks\n"
        "with torchvision_networks._compiler_left_out():\n"
        "    from torch._dynamo.utils import counters\n"
        "import torch._dynamo\n"
        "assert counters is torch._dynamo.utils.counters\n"
        "assert not isinstance(sys.modules['torch._dynamo.utils'], torchvision_networks._Later)\n"
    ),
    "who imports all of it within the block has the real one": (
        "from lth_trainable.models import torchvision_networks\n"
        "with torchvision_networks._compiler_left_out():\n"
        "    import torch._dynamo\n"
        "assert torch._dynamo.utils is sys.modules['torch._dynamo.utils']\n"
        "assert not isinstance(torch._dynamo.utils, torchvision_networks._Later)\n"
    ),
    "one that is there already stays": (
        "import torch._dynamo\n"
        "before = torch._dynamo.utils\n"
        "from lth_trainable.models.torchvision_networks import models\n"
        "assert sys.modules['torch._dynamo.utils'] is before\n"
        "assert sys.modules['torchvision.ops.roi_align'].is_compile_supported is before.is_compile_supported\n"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_torchvision_without_the_compiler(case: str) -> None:
    code = f"import sys\nimport torch\n{CASES[case]}"
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
