"""Where the study of a search is kept: in the run's folder, a database, a journal file, or an object of the user's."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Protocol

import optuna
import sqlalchemy.exc
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import URL, make_url

from lth_trainable.errors import DATABASES, StorageError, UserError, bad_value, refuse_secrets
from lth_trainable.safe_text import one_line, without_secrets
from lth_trainable.store.local_files import check_own
from lth_trainable.store.store import Store
from lth_trainable.store.trouble import EXPECTED, GO_ON
from sweeps.search.optuna_adapter import backend_of, file_of, journal

STUDY = "study.db"
PLACES = (
    "sqlite:///FILE, postgresql://USER@HOST/DATABASE, another database of SQLAlchemy, or the path of a journal file"
)
JOURNAL, SQLITE = b'{"op_code"', b"SQLite format 3"  # how these files begin
CONNECT_SECONDS, BUSY_SECONDS = 10, 60
_PACKAGES = {"psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
_SICK = re.compile(  # SQLite's words for a disk that fails; what else goes wrong is the file's fault
    "readonly database|disk I/O error|unable to open database|disk is full|attempt to write a readonly"
)


class Place(Protocol):
    """Where a study is kept.

    shown: what `optuna-dashboard` takes to open it, without credentials, if it can be opened; else its kind, in words.
    is_shared: others may have trials in it.
    """

    shown: str
    can_be_opened: bool
    is_shared: bool

    def open(self) -> BaseStorage:
        """The storage, opened. Raises `UserError` or `StorageError`."""

    def save(self) -> None:
        """Called after each change."""

    def trouble(self, error: BaseException) -> StorageError | None:
        """What to raise if this error of Optuna or of the database means that the storage fails."""


class InRun:
    """The file `RUN/study.db`, of SQLite; for an object store a local file that is copied there after each change."""

    is_shared, can_be_opened = False, True

    def __init__(self, store: Store, run: str) -> None:
        self.store, self.path = store, f"{run}/{STUDY}"
        self._folder = tempfile.TemporaryDirectory() if "://" in store.uri else None
        self.local = Path(self._folder.name, STUDY) if self._folder else Path(store.root, self.path)
        if self._folder is None:
            for ending in ("", "-journal", "-wal", "-shm"):  # SQLite follows links, and waits for pipes
                check_own(store.root, f"{self.path}{ending}", "file")
            self.local.parent.mkdir(parents=True, exist_ok=True)
        elif store.exists(self.path):
            self.local.write_bytes(store.read(self.path))
        self.shown = f"sqlite:///{self.local}"

    def open(self) -> BaseStorage:
        return RDBStorage(self.shown)

    def save(self) -> None:
        if self._folder is not None:
            self.store.write(self.path, self.local.read_bytes())

    def trouble(self, error: BaseException) -> StorageError | None:
        return _sick_file(error, self.shown)


class Database:
    """A database that the user names, such as SQLite or PostgreSQL."""

    is_shared = can_be_opened = True

    def __init__(self, url: str) -> None:
        self.shown = url
        try:
            self._url = make_url(url)
        except (sqlalchemy.exc.ArgumentError, ValueError) as error:
            raise bad_value("study", url, PLACES) from error
        self._kind = self._url.get_backend_name()
        if self._kind == "sqlite" and self._url.database in (None, "", ":memory:"):
            raise bad_value("study", url, "a database in a file, sqlite:///FILE", "one in memory ends with the command")

    def open(self) -> BaseStorage:
        limits = {"timeout": BUSY_SECONDS} if self._kind == "sqlite" else {"connect_timeout": CONNECT_SECONDS}
        known = {**limits} if self._kind in ("sqlite", "postgresql", "mysql", "mariadb") else {}
        wanted = {name: value for name, value in known.items() if name not in self._url.query}
        try:
            return RDBStorage(self.shown, engine_kwargs={"connect_args": wanted, "pool_pre_ping": True})
        except ImportError as error:
            missing = getattr(error.__cause__, "name", None) or "its driver"
            raise UserError(
                f"study {self.shown}: found no package {missing}, which talks to this database; "
                f"pip install {_PACKAGES.get(missing, missing)}"
            ) from error
        except sqlalchemy.exc.NoSuchModuleError as error:
            raise bad_value("study", self.shown, PLACES, one_line(str(error))) from error

    def save(self) -> None:
        pass

    def trouble(self, error: BaseException) -> StorageError | None:
        if self._kind == "sqlite":
            return _sick_file(error, self.shown)
        told = next((e for e in _chain(error) if isinstance(e, _NO_ANSWER)), None)
        if told is None:
            return None
        why = one_line(str(told.orig or told)).removeprefix("connection to server ")
        return StorageError(
            one_line(
                f"study {self.shown}: found a database that gives no answer ({why}); expected {EXPECTED}; see that its "
                f"server runs and lets this user in, with a password from {DATABASES}, {GO_ON}"
            )
        )


class Journal:
    """A file to which Optuna appends each change: for file systems on which SQLite does not work, such as NFS."""

    is_shared = can_be_opened = True

    def __init__(self, path: str) -> None:
        self.shown = path

    def open(self) -> BaseStorage:
        self._check()
        return journal(os.path.abspath(self.shown))

    def _check(self) -> None:
        """Raise `UserError` for a file that is no journal: it would be written to, and cut at its last line."""
        path = Path(self.shown)
        if not path.exists():
            return
        begins = b"" if not path.is_file() else _first_bytes(path)
        if path.is_file() and JOURNAL.startswith(begins):
            return
        is_sqlite = begins.startswith(SQLITE[: len(JOURNAL)])
        advice = f"for a file of SQLite give sqlite:///{self.shown}" if is_sqlite else "choose another name"
        raise bad_value("study", self.shown, "a journal file of Optuna, or a file that does not exist yet", advice)

    def save(self) -> None:
        pass

    def trouble(self, error: BaseException) -> StorageError | None:
        return next((_sick(self.shown, str(e), error) for e in _chain(error) if isinstance(e, OSError)), None)


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(JOURNAL))


class Given:
    """Where a study is that the user has made. Optuna's own objects do the work."""

    is_shared = True

    def __init__(self, study: optuna.Study) -> None:
        self._storage = backend_of(study)
        self.is_in_memory = isinstance(self._storage, optuna.storages.InMemoryStorage)
        url = getattr(self._storage, "url", "")
        found = _masked(url) if url else file_of(self._storage)
        self.shown = found or ("memory" if self.is_in_memory else type(self._storage).__name__)
        self.can_be_opened = found is not None

    def open(self) -> BaseStorage:
        return self._storage

    def save(self) -> None:
        pass

    def trouble(self, error: BaseException) -> StorageError | None:
        if any(isinstance(e, (*_NO_ANSWER, OSError)) for e in _chain(error)):
            return _sick(self.shown, str(error), error)
        return None


_NO_ANSWER = (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError)


def place_of(study: str | optuna.Study | None, store: Store, run: str) -> Place:
    """The place of the study that a search was given; None: the run's folder. Raises `UserError`."""
    if study is None:
        return InRun(store, run)
    if isinstance(study, optuna.Study):
        return Given(study)
    refuse_secrets("study", study, DATABASES)
    if not study.strip():
        raise bad_value("study", study, PLACES)
    if "://" in study:
        return Database(study)
    if study.startswith(("sqlite:", "postgresql:", "mysql:", "journal:")):
        raise bad_value("study", study, PLACES)
    if not Path(study).exists() and Path(study).suffix in (".db", ".sqlite", ".sqlite3"):
        raise bad_value("study", study, f"sqlite:///{study} for a file of SQLite", "or FILE.log for a journal")
    if not Path(study).absolute().parent.is_dir():
        raise bad_value("study", study, PLACES, "the folder of this journal file does not exist")
    return Journal(study)


def _masked(url: str) -> str:
    """The URL of a database without password and other credentials."""
    full = make_url(url)
    shown = URL.create(full.drivername, full.username, None, full.host, full.port, full.database, full.query)
    return without_secrets(shown.render_as_string())


def _sick_file(error: BaseException, shown: str) -> StorageError | None:
    """Of SQLite: whether it says that the disk of its file fails."""
    return next((_sick(shown, str(e), error) for e in _chain(error) if _SICK.search(str(e))), None)


def _sick(shown: str, told: str, error: BaseException) -> StorageError:
    why = one_line((told.splitlines() or [type(error).__name__])[0])
    return StorageError(
        f"study {shown}: found a file that cannot be written ({why}); expected {EXPECTED}; see that there is "
        f"space and that this user may write there, {GO_ON}"
    )


def _chain(error: BaseException) -> list[BaseException]:
    """An exception and those that caused it."""
    chain, told = list[BaseException](), error
    while told is not None and told not in chain:
        chain.append(told)
        told = told.__cause__  # type: ignore[assignment]
    return chain
