"""Ray's report on a dead worker has many lines; what a person reads has one."""

from __future__ import annotations

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError

from sweeps.running.deaths import reason_of_death

LOW_ON_MEMORY = """1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: ::1, ID: 5) \
was 22.47GB used / 23.54GB limit (0.954734)
Top 10 memory users: PID\tMEM(GB)\tCOMMAND
Refer to the documentation on how to address the out of memory issue: ..."""
LOST = """The actor died unexpectedly before finishing this task.
\tpid: 20551
Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: ..."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OutOfMemoryError(LOW_ON_MEMORY), "memory ran out on its node (22.47GB of 23.54GB used), and Ray ended its"),
        (RayActorError(error_msg=LOST), "its process ended without an error: killed (by the kernel, if"),
        (RayActorError(error_msg="The actor died.\n  The node was removed.\n"), "The node was removed."),
        (ValueError(), "ValueError"),
    ],
)
def test_why_a_worker_died(error: BaseException, reason: str) -> None:
    found = reason_of_death(error)
    assert found.startswith(reason) and "\n" not in found
