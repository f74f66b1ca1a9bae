"""Why a worker died, in one line, from what Ray says of it."""

from __future__ import annotations

import re

_MEMORY = re.compile(r"low on memory.*? was (?P<used>[\d.]+ ?[kMGT]?B) used / (?P<all>[\d.]+ ?[kMGT]?B)")
_LOST = "Worker unexpectedly exits with a connection error"


def reason_of_death(error: BaseException) -> str:
    """Why a worker died. Ray's report of it has many lines, and its reason comes last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    memory = _MEMORY.search(" ".join(lines))
    if memory is not None:
        return (
            f"memory ran out on its node ({memory['used']} of {memory['all']} used), and Ray ended its worker; use "
            "fewer trials at a time (--max-concurrent) or a smaller --batch-size, or stop what else uses it"
        )
    if not lines:
        return type(error).__name__
    if _LOST in lines[-1]:
        return "its process ended without an error: killed (by the kernel, if memory ran out), or left by its code"
    return lines[-1]
