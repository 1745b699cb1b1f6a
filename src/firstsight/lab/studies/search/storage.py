"""Where a search is kept, an SQLite file or a PostgreSQL that many machines share, and the lock that workers take."""

import fcntl
import hashlib
import json
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from firstsight.errors import InputError
from firstsight.lab.studies.search.space import Search
from firstsight.lab.system.progress import say

FILE = "sweep.db"  # in the folder of a search that names no other storage
GRACE = 4  # times the heartbeat: a worker that gave no sign for so long is taken for dead
_PATIENCE = 100  # seconds for another's write into an SQLite file
_KEY = int.from_bytes(hashlib.sha256(b"firstsight sweep").digest()[:7], "big")  # of the lock in a PostgreSQL

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.simplefilter("ignore", ExperimentalWarning)  # heartbeats have been experimental since Optuna 2.9


class Storage(RDBStorage):
    """Optuna's, whose heart goes on beating when the storage could not be reached for a while."""

    def __init__(self, url: URL, heartbeat: int) -> None:
        self.beat = threading.Event()
        """set once a sign of life is kept"""
        waits = {"timeout": _PATIENCE} if url.get_backend_name() == "sqlite" else {}
        super().__init__(
            url.render_as_string(hide_password=False),
            {"connect_args": waits, "pool_pre_ping": True},
            heartbeat_interval=heartbeat,
            grace_period=GRACE * heartbeat,
            heartbeat_stale_trial_callback=_tell_of_death,
        )

    def record_heartbeat(self, trial_id: int) -> None:
        """Note that the trial's worker lives."""
        try:
            super().record_heartbeat(trial_id)
            self.beat.set()
        except (StorageInternalError, SQLAlchemyError) as error:
            say(f"no sign of life could be left in the storage: {_first_line(error)}")


def _tell_of_death(study: optuna.Study, trial: Any) -> None:
    point, worker = trial.user_attrs.get("point"), trial.user_attrs.get("worker")
    say(f"point {point}: its worker, {worker}, gives no more signs of life; another takes it up")


def storage_url(given: str | None, out: Path) -> URL:
    """The storage that a command names, by default the file in its folder.

    Raises:
        InputError: it is no URL, or neither an SQLite file nor a PostgreSQL.
    """
    try:
        url = make_url(given or f"sqlite:///{out.resolve() / FILE}")
    except ArgumentError as error:
        raise _bad_url(given) from error
    if url.get_backend_name() in ("postgresql", "postgres"):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        raise _bad_url(given)
    return url


def _bad_url(given: object) -> InputError:
    return InputError(
        f"storage is {str(given).split('@')[-1]!r}; expected sqlite:///FILE, or postgresql://USER@HOST/DATABASE for "
        "many machines."
    )


def shown(url: URL) -> str:
    """A storage without its password, to be printed and kept."""
    parts = {name: getattr(url, name) for name in ("username", "host", "port", "database", "query")}
    return URL.create(url.get_backend_name(), **parts).render_as_string()


@contextmanager
def locked(url: URL) -> Iterator[None]:
    """Hold the one lock of a storage, as whoever takes or adds trials does. It ends with its holder, however that ends.

    Raises:
        InputError: the storage cannot be reached.
    """
    with reached(url):
        if url.get_backend_name() == "sqlite":
            path = Path(f"{url.database}.lock")
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield
            return
        engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            # A machine that loses its power holds no lock for long.
            for name, value in (("idle", 30), ("interval", 10), ("count", 3)):
                connection.execute(sqlalchemy.text(f"SET tcp_keepalives_{name} = {value}"))
            connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_lock(_KEY)))
            yield


@contextmanager
def reached(url: URL) -> Iterator[None]:
    """Turn what says that a storage is out of reach or damaged into an InputError that names it."""
    try:
        yield
    except ImportError as error:
        raise InputError(f"{shown(url)}: {error} It comes with pip install 'firstsight[postgres]'.") from error
    except (StorageInternalError, SQLAlchemyError) as error:
        raise InputError(
            f"the storage {shown(url)} does not answer as it should: {_first_line(error)}. Is its server up, its "
            "database made, and its disk not full? What was finished is kept; the same command goes on."
        ) from error


def _first_line(error: BaseException) -> str:
    told = error.__cause__ or error
    return (str(told).strip().splitlines() or [type(told).__name__])[0]


def open_storage(url: URL, heartbeat: int = 15) -> Storage:
    """A storage that is there already.

    Args:
        url: which.
        heartbeat: seconds between a worker's signs of life.

    Raises:
        InputError: it cannot be reached.
    """
    if url.get_backend_name() == "sqlite" and not Path(str(url.database)).exists():
        raise InputError(f"{url.database}: there is no such file. Start the search with firstsight sweep lm.")
    with reached(url):
        return Storage(url, heartbeat)


def open_study(storage: Storage, name: str) -> optuna.Study:
    """The study of a search that is there already.

    Raises:
        InputError: the storage cannot be reached, or has no such search.
    """
    url = make_url(storage.url)
    with reached(url):
        try:
            study = optuna.load_study(study_name=name, storage=storage)
        except KeyError:
            study = None
        if study is None or "search" not in study.user_attrs:
            raise InputError(
                f"the storage {shown(url)} has no search named {name}. Start it with firstsight sweep lm, or name "
                "another with --study."
            )
    return study


def found_study(url: URL, name: str, search: Search, about: dict[str, Any], heartbeat: int) -> optuna.Study:
    """The study of a search: made, or found there and checked to be of the same search. The lock has to be held.

    Args:
        url: the storage.
        name: of the study.
        search: what is searched. Its ``trials`` may be more than before.
        about: of the data, ``dataset`` and ``vocabulary_hash``.
        heartbeat: seconds between a worker's signs of life.

    Raises:
        InputError: the storage cannot be reached, or holds another search of that name.
    """
    asked = json.loads(json.dumps({**about, **search.to_dict()}))  # tuples are lists there
    trials = asked.pop("trials")
    with reached(url):
        study = optuna.create_study(
            study_name=name, storage=Storage(url, heartbeat), direction="minimize", load_if_exists=True
        )
        kept = study.user_attrs
        if "search" not in kept:
            if study.get_trials(deepcopy=False):
                raise InputError(f"{shown(url)}: the study {name} is none of firstsight's. Give --study another name.")
            study.set_user_attr("search", asked)
        elif differing := _differing(kept["search"], asked):
            asked_by = f"{search.source}: " if search.source else ""
            raise InputError(
                f"{asked_by}{shown(url)}: the search {name} was made otherwise: {differing}. Give the same, or --study "
                "another name (and --out another folder)."
            )
        study.set_user_attr("trials", max(trials, kept.get("trials", 0)))
    return study


def _differing(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What is not the same, as "seeds was [0], now [0, 1]; base lr was 0.1, now 0.2"."""
    flat = [{**search, **{f"base {name}": value for name, value in search["base"].items()}} for search in (before, now)]
    names = [name for name in {**flat[0], **flat[1]} if name != "base"]
    lines = [(name, flat[0].get(name), flat[1].get(name)) for name in names]
    return "; ".join(f"{name} was {was}, now {new}" for name, was, new in lines if was != new)


def search_of(study: optuna.Study) -> Search:
    """What a study searches, from what it keeps of it."""
    kept = study.user_attrs
    fields = {name: value for name, value in kept["search"].items() if name not in ("dataset", "vocabulary_hash")}
    return Search(**fields, trials=kept["trials"])
