"""Folders that are made while another process removes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from lth_trainable.errors import UserError
from lth_trainable.store.local_files import make_folder


def removed(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """The first so many attempts to make a folder find it, and it is gone before they look again."""
    plain: Callable[..., None] = Path.mkdir
    left = [times]

    def mkdir(path: Path, *args: int, **more: bool) -> None:
        if left[0]:
            left[0] -= 1
            raise FileExistsError
        plain(path, *args, **more)

    monkeypatch.setattr(Path, "mkdir", mkdir)


def test_a_folder_that_another_process_removes_is_made_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    removed(monkeypatch, times=2)
    make_folder(tmp_path / "runs" / "digits")
    assert (tmp_path / "runs" / "digits").is_dir()


def test_one_that_is_removed_again_and_again_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    removed(monkeypatch, times=-1)
    with pytest.raises(FileNotFoundError, match="removed while it was made"):
        make_folder(tmp_path / "runs")


@pytest.mark.parametrize("below", ["file", "file/below"])
def test_a_file_in_the_place_of_a_folder_is_one_clear_error(below: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / below}: found a file; expected a folder")):
        make_folder(tmp_path / below)


def test_a_link_to_a_folder_is_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    make_folder(tmp_path / "link" / "below")
    assert (tmp_path / "there" / "below").is_dir()
