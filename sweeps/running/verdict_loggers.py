"""Verdicts and chosen tickets in MLflow and Weights & Biases: one run there for each run of sweeps, beside its trials.

A repeated command finds that run again and brings it up to date; nothing is there twice. Each function yields between
its steps, so that the caller sees progress.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeps.running.conclusion import Conclusion

TAG = "lottery_sweep.run"  # in MLflow: the identity of the run whose verdicts these are
VERDICTS = "verdicts"
TABLE = "verdicts.json"
BATCH = 100  # tags in one request to MLflow, which takes no more
LONGEST, LONGEST_ARTIFACT = 250, 128  # signs of a name in MLflow, and of an artifact in Weights & Biases


def to_mlflow(client: Any, experiment: str, conclusion: Conclusion) -> Iterator[None]:
    """Log to the run of this conclusion in the experiment: tags, metrics, a table, and the tickets as artifacts."""
    from mlflow.entities import Metric, RunTag

    found = client.search_runs([experiment], f"tags.`{TAG}` = '{conclusion.identity}'", max_results=1)
    tags = {TAG: conclusion.identity, "trial_name": VERDICTS}
    run = found[0] if found else client.create_run(experiment, run_name=f"{conclusion.run} {VERDICTS}", tags=tags)
    run_id, data = run.info.run_id, run.data
    texts = {"answer": conclusion.answer, "tickets": ", ".join(conclusion.choice.trials) or conclusion.choice.why}
    texts |= {f"verdict/{name}": verdict for name, verdict in conclusion.verdicts().items()}
    named = [RunTag(plain_name(name), text) for name, text in texts.items() if data.tags.get(plain_name(name)) != text]
    numbers = {plain_name(name): float(value) for name, value in conclusion.numbers().items()}
    changed = {name: value for name, value in numbers.items() if data.metrics.get(name) != value}
    for first in range(0, len(named), BATCH):
        client.log_batch(run_id, tags=named[first : first + BATCH])
        yield
    points = [Metric(name, value, 0, 0) for name, value in changed.items()]
    for first in range(0, len(points), BATCH):
        client.log_batch(run_id, metrics=points[first : first + BATCH])
        yield
    _table_to_mlflow(client, run_id, conclusion)
    yield
    for trial in conclusion.choice.trials:
        with conclusion.exported(trial) as folder:
            client.log_artifacts(run_id, str(folder), f"tickets/{trial}")
        yield
    client.set_terminated(run_id, "FINISHED")


def _table_to_mlflow(client: Any, run_id: str, conclusion: Conclusion) -> None:
    """The verdicts in the form of `log_table`, which would add them once more to a table that is there."""
    columns, rows = conclusion.table()
    if not any(file.path == TABLE for file in client.list_artifacts(run_id)):
        client.log_table(run_id, {column: [row[i] for row in rows] for i, column in enumerate(columns)}, TABLE)
    client.log_text(run_id, json.dumps({"columns": list(columns), "data": rows}), TABLE)


def to_wandb(service: Any, project: str, folder: Path, conclusion: Conclusion) -> Iterator[None]:
    """Log to the run of this conclusion in the project: its summary with a table, and the tickets as artifacts.

    folder: for the files of Weights & Biases.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = service.init(
        project=project, group=conclusion.run, id=conclusion.identity, name=f"{conclusion.run} {VERDICTS}",
        job_type=VERDICTS, dir=str(folder), reinit="create_new", resume="allow", mode=wandb_mode(),
        settings=service.Settings(console="off", silent=True),
    )  # fmt: skip
    try:
        columns, rows = conclusion.table()
        run.summary.update({
            "answer": conclusion.answer, "tickets": list(conclusion.choice.trials), "chosen": conclusion.choice.why,
            **{f"{name}/verdict": verdict for name, verdict in conclusion.verdicts().items()}, **conclusion.numbers(),
        })  # fmt: skip
        run.summary["verdicts"] = service.Table(columns=list(columns), data=rows)
        yield
        for trial in conclusion.choice.trials:
            with conclusion.exported(trial) as exported:
                name = plain_name(trial, LONGEST_ARTIFACT)
                artifact = service.Artifact(name, type="model", metadata=dict(conclusion.about(trial)))
                for file in sorted(path for path in exported.rglob("*") if path.is_file()):  # it is copied
                    artifact.add_file(str(file), name=file.relative_to(exported).as_posix())
                run.log_artifact(artifact)
            yield
    finally:
        run.finish()


def wandb_mode() -> Any:
    """The mode that WANDB_MODE asks for now: the package reads it once in a process, as a notebook may not expect."""
    return os.environ.get("WANDB_MODE") or None


def plain_name(name: str, longest: int = LONGEST) -> str:
    """A name that both trackers take: other signs become hyphens, and a digest stands for the end of a long one."""
    plain = re.sub(r"[^\w. /-]", "-", name, flags=re.ASCII)
    if len(plain) <= longest:
        return plain
    return f"{plain[: longest - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
