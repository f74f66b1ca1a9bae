"""Credentials in a URI are refused by every command before anything is written; texts of others are shown safely."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import analysis.__main__ as analysis_main
from analysis.text import console, print_line, table_of
from lth_trainable.errors import BAD_INPUT, UserError
from lth_trainable.store.store import FAILURE, Store, to_json
from lth_trainable.store.trials import read_failure
from sweeps import lth_grid, lth_search, status, storage, verify
from sweeps.running.loggers import check_environment

URI = "s3://AKIAKEY:hunter2@bucket/runs"
COMMANDS: dict[str, Callable[[], int]] = {
    "lth_grid": lambda: lth_grid.main(["digits", "--storage", URI]),
    "lth_grid=": lambda: lth_grid.main(["digits", f"--storage={URI}"]),
    "lth_grid, submitted": lambda: lth_grid.main(["digits", "--storage", URI, "--address", "http://127.0.0.1:1"]),
    "import": lambda: lth_grid.main(["digits", "--import-ticket", f"{URI}/x.safetensors"]),
    "lth_search": lambda: lth_search.main(["--storage", URI]),
    "status": lambda: status.main([f"{URI}/digits"]),
    "storage": lambda: storage.main(["du", URI]),
    "verify": lambda: verify.main([f"{URI}/digits"]),
    "analysis": lambda: analysis_main.main([f"{URI}/digits"]),
    "compare": lambda: analysis_main.main(["compare", f"{URI}/a", f"{URI}/b"]),
    "export": lambda: analysis_main.main(["export", f"{URI}/digits/trials/x"]),
    "pack": lambda: analysis_main.main(["pack", f"{URI}/digits"]),
    "figures": lambda: analysis_main.main(["figures", f"{URI}/digits"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_credentials_in_a_uri(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert COMMANDS[command]() == BAD_INPUT
    shown = "".join(capsys.readouterr())
    assert "found credentials in a URI" in shown and shown.count("\n") == 1
    assert "hunter2" not in shown and "AKIAKEY" not in shown
    assert not list(tmp_path.iterdir())


def test_a_tracking_uri_with_a_password_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://user:hunter2@host/mlflow")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_PASSWORD") as caught:
        check_environment()
    assert "hunter2" not in str(caught.value)


NASTY = "bad\x1b]52;c;eA==\x07 \x1b[2Jnews\r\u202e[red]"


def test_tables_and_lines_show_texts_of_others_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    table = table_of("trial", "reason")
    table.add_row(NASTY, "x")
    to = console()
    to.print(table)
    to.print(NASTY, soft_wrap=True)
    print_line(to, f"{NASTY}\nmore")
    shown = capsys.readouterr().out
    assert shown.count("bad news\\x0d\\u202e[red]") == 3 and "news\\x0d\\u202e[red] more" in shown
    assert not set(shown) & set("\x1b\x07\r\u202e")


def test_the_failure_of_a_trial_is_read_without_controls(store: Store) -> None:
    store.write(f"r/trials/t/{FAILURE}", to_json({"reason": f"{NASTY}\nx", "traceback": f"a\n{NASTY}"}))
    found = read_failure(store, "r/trials/t")
    assert found is not None and found.reason == "bad news\\x0d\\u202e[red] x"
    assert found.traceback == "a\nbad news\\x0d\\u202e[red]"
    assert json.loads(store.read(f"r/trials/t/{FAILURE}"))
