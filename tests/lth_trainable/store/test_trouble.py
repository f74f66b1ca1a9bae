"""Errors of the storage are told from all others, whichever operation meets them."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lth_trainable.errors import FAILED, StorageError, UserError, command_line
from lth_trainable.store import trouble
from lth_trainable.store.store import Damaged, Store
from lth_trainable.store.trouble import trouble_of
from tests.support.sick import CREDENTIALS, SickStore, refusing_s3

SICK = [
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM, errno.ENODEV,
    errno.ENOTCONN, errno.ENXIO, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.EREMOTEIO,
]  # fmt: skip
OPERATIONS: dict[str, Callable[[Store], Any]] = {
    "read": lambda store: store.read("r/file"),
    "write": lambda store: store.write("r/file", b"new"),
    "exists": lambda store: store.exists("r/file"),
    "delete": lambda store: store.delete("r/file"),
    "delete_folder": lambda store: store.delete_folder("r"),
    "folders": lambda store: store.folders("r"),
    "sizes": lambda store: store.sizes("r"),
    "walk": lambda store: store.walk("r"),
    "present": lambda store: store.present("r", ["file"]),
    "find": lambda store: store.find("r"),
    "seal": lambda store: store.seal("r", {"file": b"x"}, {}),
    "seal_shared": lambda store: store.seal_shared("r", {"file.bin": b"x"}, {}),
    "quarantine": lambda store: store.quarantine(Damaged("r", "altered"), "r2"),
}


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(trouble, "STALE_SECONDS", 0.01)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("number", SICK, ids=lambda number: errno.errorcode[number])
def test_an_error_of_the_storage_is_told_in_one_line_by_every_operation(
    tmp_path: Path,
    number: int,
    operation: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Store(tmp_path).write("r/file", b"content")
    store = SickStore(tmp_path, lambda _: number)

    def sick(*_: Any) -> Any:
        raise OSError(number, os.strerror(number))

    for without_arrow in ("walk", "folders_among", "what_is_at", "check_file", "read_file", "sizes_in"):
        monkeypatch.setattr(f"lth_trainable.store.store.{without_arrow}", sick)

    def command() -> int:
        OPERATIONS[operation](store)
        return 0

    assert command_line(command) == FAILED
    told = capsys.readouterr().err
    assert told.startswith(f"error: storage {tmp_path}: found ") and told.count("\n") == 1, told
    assert "; expected " in told and "run the same command again" in told
    assert Path(tmp_path, "r/file").read_bytes() == b"content"


def test_an_error_of_one_file_is_not_the_storages(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.write("r/folder/file", b"content")
    with pytest.raises(FileNotFoundError):
        store.read("r/nothing")
    with pytest.raises(OSError, match="folder"):
        store.read("r/folder")
    with pytest.raises(UserError, match="found no folder"):
        store.folders("r/folder/file")
    with pytest.raises(OSError, match="File name too long"):
        store.read("x" * 300)
    assert store.sizes("nowhere") == {} and not store.exists("nowhere")


def test_a_stale_handle_is_tried_again_for_a_moment(tmp_path: Path) -> None:
    Store(tmp_path).write("file", b"content")
    answers = iter([errno.ESTALE, errno.ESTALE, 0])
    assert SickStore(tmp_path, lambda _: next(answers)).read("file") == b"content"


def test_the_message_is_the_same_after_a_worker_and_a_callback_of_fastai(tmp_path: Path) -> None:
    error = StorageError("storage x: found no space left")
    error.args = ("Exception occured in `SomeCallback`: storage x",)  # as fastai changes it
    assert str(error) == str(pickle.loads(pickle.dumps(StorageError(str(error))))) == "storage x: found no space left"


def test_a_storage_in_use_that_is_gone_is_not_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path / "runs")
    store.write("digits/plan.json", b"{}")
    store.in_use()
    store.write("digits/other.json", b"{}")
    shutil.rmtree(tmp_path / "runs")
    with pytest.raises(StorageError, match=r"runs: found no folder any more; expected .* mount it again"):
        store.write("digits/plan.json", b"{}")
    assert not list(tmp_path.iterdir())


def test_a_storage_in_use_that_vanishes_while_a_file_is_written_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "runs")
    store.write("digits/plan.json", b"{}")
    move = store.fs.move

    class Vanishing:
        """A file system whose storage is removed between the content of a file and its name."""

        open_output_stream = staticmethod(store.fs.open_output_stream)

        def move(self, source: str, target: str) -> None:
            shutil.rmtree(tmp_path / "runs")
            move(source, target)

    monkeypatch.setattr(store, "fs", Vanishing())
    monkeypatch.setattr(Store, "is_local", True)
    with pytest.raises(StorageError, match=r"runs: found no folder any more"):
        store.in_use().write("digits/driver.json", b"{}")
    assert not list(tmp_path.iterdir())


TEXTS = {  # of pyarrow 21, seen with a server that answers so
    "When getting information for key 'r/x' in bucket 'b': AWS Error ACCESS_DENIED during HeadObject operation: No "
    "response body.": ("access denied (S3: ACCESS_DENIED)", False),
    "When initiating multiple part upload for key 'r/x' in bucket 'b': AWS Error INVALID_ACCESS_KEY_ID during "
    "CreateMultipartUpload operation: The AWS Access Key Id does not exist": (
        "access denied (S3: INVALID_ACCESS_KEY_ID)", False,
    ),
    "AWS Error SIGNATURE_DOES_NOT_MATCH during ListObjectsV2 operation: sig": (
        "access denied (S3: SIGNATURE_DOES_NOT_MATCH)", False,
    ),
    "AWS Error UNKNOWN (HTTP status 400) during CreateMultipartUpload operation: Unable to parse ExceptionName: "
    "ExpiredToken Message: The provided token has expired.": ("access denied (S3: ExpiredToken)", False),
    "AWS Error UNKNOWN (HTTP status 400) during HeadObject operation: No response body.": (
        "access denied (S3: HTTP status 400)", False,
    ),
    "AWS Error NO_SUCH_BUCKET during CreateMultipartUpload operation: gone": (
        "no bucket of this name (S3: NO_SUCH_BUCKET)", False,
    ),
    "AWS Error REQUEST_TIME_TOO_SKEWED during ListObjectsV2 operation: skew": (
        "a clock that differs from the server's (S3: REQUEST_TIME_TOO_SKEWED)", False,
    ),
    "AWS Error UNKNOWN (HTTP status 507) during HeadObject operation: No response body.": (
        "no space left (S3: HTTP status 507)", False,
    ),
    "AWS Error UNKNOWN (HTTP status 403) during CreateMultipartUpload operation: Unable to parse ExceptionName: "
    "QuotaExceeded Message: full": ("no space left (S3: QuotaExceeded)", False),
    "AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7, Could not connect to server": (
        "a server that does not answer as it should (S3: NETWORK_CONNECTION)", True,
    ),
    "AWS Error UNKNOWN (HTTP status 503) during HeadObject operation: No response body.": (
        "a server that does not answer as it should (S3: HTTP status 503)", True,
    ),
    "google::cloud::Status(PERMISSION_DENIED: no)": ("access denied", False),
}  # fmt: skip


@pytest.mark.parametrize(("text", "words"), TEXTS.items())
def test_what_an_object_store_says_in_words(text: str, words: tuple[str, bool]) -> None:
    found = trouble_of(OSError(text), is_local=False)
    assert found is not None and (found.found, found.passes) == words


DENIALS = [(403, "AccessDenied"), (403, "InvalidAccessKeyId"), (401, "Unauthorized"), (400, "ExpiredToken")]


@pytest.mark.parametrize(("status", "code"), DENIALS)
def test_s3_that_denies_access_is_told_at_once(status: int, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with refusing_s3(status, code) as address:
        store = Store(f"s3://bucket/runs?endpoint_override={address}&scheme=http").in_use()
        for operation in OPERATIONS:
            with pytest.raises(StorageError, match=r"found access denied .*renew the credentials"):
                OPERATIONS[operation](store)


def test_an_outage_of_an_object_store_is_waited_for_only_while_it_is_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SickStore, "is_local", False)
    Store(tmp_path).write("file", b"content")

    def answers(number: int) -> Callable[[str], int]:
        left = iter(range(number))
        return lambda _: errno.ECONNRESET if next(left, None) is not None else 0

    monkeypatch.setitem(trouble._LOCAL, errno.ECONNRESET, trouble.Trouble(found="x", advice="y", passes=True))
    with pytest.raises(StorageError):
        SickStore(tmp_path, answers(1)).read("file")
    assert SickStore(tmp_path, answers(5)).in_use().read("file") == b"content"
