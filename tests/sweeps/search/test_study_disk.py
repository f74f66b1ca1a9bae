"""A disk that fails under the study of a search is the storage's trouble, told in one line."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lth_trainable.errors import StorageError, UserError
from lth_trainable.store.store import Store
from sweeps.search.places import STUDY
from sweeps.search.searches import find_search
from sweeps.search.study import Study


@pytest.fixture
def files_stay_small() -> Iterator[None]:
    """No file of this process grows beyond 1 kB: the system refuses, as a full disk would."""
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def open_study(root: Path) -> Study:
    return Study(find_search("digits_search").check(), Store(root), "digits_search")


@pytest.mark.usefixtures("files_stay_small")
def test_a_study_that_cannot_be_begun(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"study sqlite:.*found a file that cannot be written .*; expected "):
        open_study(tmp_path)


def test_a_study_that_cannot_go_on(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    study = open_study(tmp_path)
    number = study.ask().number
    request.getfixturevalue("files_stay_small")
    with pytest.raises(StorageError, match="found a file that cannot be written"):
        study.tell(number, {"accuracy": 0.9, "sparsity": 80.0})


def test_a_file_that_is_no_study_is_not_the_disks_fault(tmp_path: Path) -> None:
    Store(tmp_path).write(f"digits_search/{STUDY}", b"nonsense" * 1000)
    with pytest.raises(UserError, match="cannot be read as a study"):
        open_study(tmp_path)
