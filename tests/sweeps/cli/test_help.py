"""The short help, and values between commas."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from lth_trainable.errors import UserError
from sweeps import lth_grid, lth_search
from sweeps.cli import options, search_options
from sweeps.cli.commas import without_commas


@pytest.mark.parametrize("command", [lth_grid.main, lth_search.main])
def test_help_is_short_and_help_all_has_every_flag(
    command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "110")
    for flag in ("--help", "-h"):
        with pytest.raises(SystemExit) as ended:
            command(["digits", flag])
        assert ended.value.code == 0
    short = capsys.readouterr().out
    assert len(short.splitlines()) < 2 * 70 and "--granularity" not in short and "--help-all" in short
    for title in ("what", "compare", "where", "stop", "watch", "examples"):
        assert f"\n{title}" in short
    assert "--storage DIR" in short and "--name NAME" in short
    assert "--sparsity X ..." in short or "--sparsity AXIS" in short
    with pytest.raises(SystemExit) as ended:
        command(["--help-all"])
    assert ended.value.code == 0 and "--granularity" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "command"), [("lth-grid", lth_grid.main), ("lth-search", lth_search.main)], ids=["grid", "search"]
)
def test_the_help_of_a_script_has_its_name(
    name: str, command: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [f"/a/bin/{name}"])
    with pytest.raises(SystemExit):
        command(["--help"])
    shown = capsys.readouterr().out
    assert (
        shown.count(f"  {name}") >= 3
        and f"usage: {name} " in shown
        and f"-m sweeps.{name.replace('-', '_')}" not in shown
    )


def test_every_flag_of_the_help_exists() -> None:
    for text, cls, axes in (
        (options.HELP, options.Options, options._axes_class()),
        (search_options.HELP, search_options.SearchOptions, search_options._axes_class()),
    ):
        known = {*cls.__dataclass_fields__, *axes.__dataclass_fields__}
        assert {flag for flags in text.groups.values() for flag in flags} <= known


def test_commas_separate_values() -> None:
    _, sweep = options.parse(["digits", "--sparsity", "50,80", "90", "--seed=3,5", "--controls", "reinit,sign_shuffle"])
    assert sweep.axes["target_sparsity_pct"] == (50.0, 80.0, 90.0)
    assert (sweep.seeds, sweep.controls) == ((3, 5), ("reinit", "sign_shuffle"))
    _, search = search_options.parse(["digits", "--sparsity", "50,80"])
    assert str(search.axes["target_sparsity_pct"]) == str(
        search_options.parse(["digits", "--sparsity", "50", "80"])[1].axes["target_sparsity_pct"]
    )


def test_what_has_commas_itself_keeps_them() -> None:
    _, sweep = options.parse(["--lr-policy", "steps", "--lr-drops", "0.5,0.75", "--data-root", "a,b", "--name", "x,y"])
    assert sweep.axes["lr_drops"] == ("0.5,0.75",)
    assert without_commas(["--data-root", "a,b", "recipe,x"], {"--sparsity"}) == ["--data-root", "a,b", "recipe,x"]


@pytest.mark.parametrize("text", ["50,", ",50", "50,,80", ","])
def test_an_empty_value_between_commas_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"--sparsity: found '.*'; expected values between commas"):
        options.parse(["--sparsity", text])
