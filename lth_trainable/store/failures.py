"""Notes in a trial's folder why an attempt at it failed, so that the next one knows. Does not import torch.

    python -m lth_trainable.store.failures

does so for a process that is ended because its trial is silent: with the fields of `Note` as JSON on standard input.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from typing import Any

from lth_trainable.errors import UserError, words_of
from lth_trainable.store.store import FAILURE, Store, to_json
from lth_trainable.store.trials import Failure, read_failure

LONGEST_REASON = 2_000  # characters; a message may contain a whole tensor
LONGEST_TRACEBACK = 100_000


@dataclass(frozen=True, kw_only=True)
class Note:
    """What an attempt needs to leave its failure.

    storage: of the run. path: of the trial's folder in it. launch: the launch of Ray Tune that the attempt belongs to.
    before: why the attempt before it in the same launch failed; None if there was none.
    """

    storage: str
    path: str
    launch: str
    before: str | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def leave(self, reason: str, traceback: str, *, is_last: bool) -> str:
        """Write `failure.json`; returns the reason as it is noted. is_last: no other attempt would help."""
        reason = self._with_before(reason)
        if len(traceback) > LONGEST_TRACEBACK:
            half = LONGEST_TRACEBACK // 2
            traceback = f"{traceback[:half]}\n...\n{traceback[-half:]}"
        content = {"reason": reason, "traceback": traceback, "launch": self.launch, "last": is_last}
        Store(self.storage).write(f"{self.path}/{FAILURE}", to_json(content))
        return reason

    def _with_before(self, reason: str) -> str:
        if len(reason) > LONGEST_REASON:
            reason = f"{reason[:LONGEST_REASON]}..."
        if self.before is None:
            return reason
        return f"{reason} (twice)" if self.before == reason else f"{reason}; the attempt before: {self.before}"


def failure_of(store: Store, path: str, launch: str) -> Failure | None:
    """Why the attempt before this one in the same launch failed; None if it did not, or there was none."""
    failure = read_failure(store, path)
    return failure if failure is not None and launch and failure.launch == launch else None


def reason_of(error: BaseException) -> str:
    """Why a trial failed, in one line: the message of an exception, with its type unless it is a `UserError`."""
    text = words_of(error)
    if isinstance(error, UserError):
        return text
    text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{text} (its code called sys.exit)" if isinstance(error, SystemExit) else text


def main() -> int:
    """Leave the failure that standard input describes. A second one in a launch is the last."""
    content = json.load(sys.stdin)
    reason, traceback = content.pop("reason"), content.pop("traceback")
    note = Note(**content)
    note.leave(reason, traceback, is_last=note.before is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
