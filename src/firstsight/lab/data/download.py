"""Files from the web: whole or not at all, from the first mirror that has them, at a rate no server minds.

pooch carries the bytes. What is ours: the pauses, the retries, and the checks that a body is as long as announced and
no longer than it can be.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from typing import IO, Self, TypeVar

import pooch
import requests

from firstsight._version import __version__
from firstsight.errors import InputError
from firstsight.lab.system.files import atomic_write, digest
from firstsight.lab.system.progress import Bar, say

T = TypeVar("T")

PAUSES = (1.0, 4.0, 16.0)
"""Seconds before the second, third and fourth attempt at one address (our decision)."""

TIMEOUT = 30.0
"""Seconds without a byte after which an attempt has failed."""

MAX_RETRY_AFTER = 120.0
"""The longest pause in seconds that a server's Retry-After can ask for; it is then asked again all the same."""

MOST_BYTES = 1 << 30
"""Bytes of a file, at most, where a caller knows no closer bound: nothing that we fetch has more."""

BY_HAND = "use --from FILE with it"
"""What to do with a file that was downloaded by hand, where a command does not say otherwise."""

_ABSENT = (403, 404, 410)
_PASSING = (408, 425, 429, 500, 502, 503, 504)
_PASSING_ERRORS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)
_HEADERS = {
    "User-Agent": f"firstsight/{__version__} (one request at a time, with pauses)",
    "Accept-Encoding": "identity",
}
_BAR_FROM = 8 << 20  # bytes; shorter files are there before a bar has been read


class NotFoundError(InputError):
    """Every mirror answered that it has no such file. ``refused`` tells that one of them said so with a 403."""

    def __init__(self, message: str, refused: bool) -> None:
        super().__init__(message)
        self.refused = refused


class TooLargeError(InputError):
    """What every mirror has under this address is larger than the file can be."""


class Polite:
    """Keeps at least ``interval`` seconds between the starts of requests, and waits out retries.

    Half a second (our decision) fetches the books of the paper in half an hour, and is a load that no mirror notices.
    ``clock`` and ``sleep`` are there so that tests need not wait.
    """

    def __init__(
        self,
        interval: float = 0.5,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._interval, self._clock, self.pause = interval, clock, sleep
        self._next = float("-inf")

    def turn(self) -> None:
        """Return as soon as the next request may start."""
        wait = self._next - self._clock()
        if wait > 0:
            self.pause(wait)
        self._next = self._clock() + self._interval


POLITE = Polite()
"""The one of this process, so that its parts together keep the bound."""


class _FailureError(Exception):
    """One address failed. ``passing`` tells that it may not fail again, after ``after`` seconds at the earliest."""

    def __init__(
        self, reason: str, status: int = 0, passing: bool = False, after: float = 0.0, too_large: bool = False
    ) -> None:
        super().__init__(reason)
        self.status, self.passing, self.after, self.too_large = status, passing, after, too_large


def fetch(
    urls: str | Sequence[str],
    to: str | Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    most: int = MOST_BYTES,
    by_hand: str = BY_HAND,
    polite: Polite = POLITE,
) -> Path:
    """The file at ``to``, downloaded if it is not there yet or has another checksum.

    Connection errors, timeouts, cut bodies and the statuses 408, 425, 429, 500, 502, 503 and 504 are tried again after
    ``PAUSES``, or later where the server asks for it.

    Args:
        urls: addresses of the same file, http or https, tried in order.
        to: where the file goes; complete or not there at all, never a part.
        sha256: its SHA-256 in hex. A download that does not fit counts as a failed mirror.
        md5: its MD5, for files whose publisher gives no other checksum; looked at where ``sha256`` is None.
        most: bytes that it can have. A longer body is not fetched, or no further than that.
        by_hand: the end of an error: what to do with a file that was downloaded by hand.

    Raises:
        NotFoundError: every address answered 403, 404 or 410.
        TooLargeError: every address has more than ``most`` bytes.
        InputError: no address gave the file; says what each answered.
    """
    to = Path(to)
    name, algorithm, expected = ("MD5", "md5", md5) if sha256 is None else ("SHA-256", "sha256", sha256)
    if to.is_file():
        if expected is None or digest(to, algorithm) == expected.lower():
            return to
        say(f"{to}: the {name} is not {expected}: fetching the file anew.")

    def attempt(url: str) -> None:
        with atomic_write(to, "wb") as file:
            found = _download(url, file, polite, most, algorithm)
            if expected is not None and found != expected.lower():
                raise _FailureError(f"the {name} is {found}; expected {expected.lower()}")

    _first([urls] if isinstance(urls, str) else urls, attempt, polite, by_hand)
    return to


def get(url: str, *, most: int = MOST_BYTES, polite: Polite = POLITE) -> bytes:
    """The body of a page, with the retries, the bound and the errors of ``fetch``."""

    def attempt(url: str) -> bytes:
        file = BytesIO()
        _download(url, file, polite, most)
        return file.getvalue()

    return _first([url], attempt, polite)


def _first(urls: Sequence[str], attempt: Callable[[str], T], polite: Polite, by_hand: str = BY_HAND) -> T:
    """What the first address gives that gives anything."""
    failures = {}
    for url in urls:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{url}: expected an address that begins with http:// or https://.")
        try:
            return _patiently(url, attempt, polite)
        except _FailureError as failure:
            failures[url] = failure
    told = "; ".join(f"{url}: {failure}" for url, failure in failures.items())
    statuses = [failure.status for failure in failures.values()]
    if all(status in _ABSENT for status in statuses):
        raise NotFoundError(f"{told}. Look for the file by hand, and {by_hand}.", refused=403 in statuses)
    if all(failure.too_large for failure in failures.values()):
        raise TooLargeError(f"{told}. Use another mirror, or look for the file by hand, and {by_hand}.")
    raise InputError(
        f"{told}. Try again later, or download the file by hand (with a browser, or through the proxy of your network) "
        f"and {by_hand}."
    )


def _patiently(url: str, attempt: Callable[[str], T], polite: Polite) -> T:
    for pause in PAUSES:
        try:
            return attempt(url)
        except _FailureError as failure:
            if not failure.passing:
                raise
            polite.pause(max(pause, min(failure.after, MAX_RETRY_AFTER)))
    return attempt(url)


def _download(url: str, file: IO[bytes], polite: Polite, most: int, algorithm: str = "sha256") -> str:
    """One attempt; the checksum of what came."""
    with _Sink(file, url.rpartition("/")[2], most, algorithm) as sink:
        load = pooch.HTTPDownloader(
            chunk_size=1 << 16, timeout=TIMEOUT, headers=_HEADERS, hooks={"response": sink.answered}
        )
        polite.turn()
        try:
            load(url, sink, None)
        except requests.HTTPError as error:
            raise sink.refusal() from error
        except requests.RequestException as error:
            raise _FailureError(_plainly(error), passing=isinstance(error, _PASSING_ERRORS)) from error
        if sink.missing:
            raise _FailureError(f"the body is cut short, {sink.missing:,} bytes are missing", passing=True)
        return sink.digest.hexdigest()


def _plainly(error: Exception) -> str:
    """The innermost cause, in one line, of what requests wraps up in three layers."""
    reason: object = error
    while isinstance(reason, Exception) and (inner := getattr(reason, "reason", None) or next(iter(reason.args), None)):
        if not isinstance(inner, Exception):
            break
        reason = inner
    return " ".join(f"{reason}".split()) or type(error).__name__


class _Sink:
    """Where pooch writes: a file, its checksum, and a bar where it is long; it takes no more than ``most`` bytes."""

    def __init__(self, file: IO[bytes], title: str, most: int, algorithm: str) -> None:
        self.digest = hashlib.new(algorithm, usedforsecurity=False)
        self._file, self._title, self._most, self._done = file, title, most, 0
        self._responses: list[requests.Response] = []
        self._stack = ExitStack()
        self._bar: Bar | None = None

    def answered(self, response: requests.Response, **_: object) -> None:
        """The hook of requests: headers are there, the body is not; a redirection comes by too."""
        self._responses.append(response)
        size = _length(response)
        if response.ok:  # what an error page weighs does not matter: its body is not read
            self._check(size)
        if response.ok and size >= _BAR_FROM and self._bar is None:
            self._bar = self._stack.enter_context(Bar(f"{self._title}, MiB", size >> 20))

    def _check(self, size: int) -> None:
        if size > self._most:
            raise _FailureError(
                f"{size:,} bytes or more are there; expected {self._most:,} at the most", too_large=True
            )

    def refusal(self) -> _FailureError:
        """What a status of 400 and more means."""
        response = self._responses[-1]
        status, after = response.status_code, response.headers.get("Retry-After", "")
        seconds = float(after) if after.isdecimal() else 0.0  # a date is the other form: the pauses will do
        return _FailureError(f"status {status} ({response.reason})", status, status in _PASSING, seconds)

    @property
    def missing(self) -> int:
        """Bytes announced that did not come, counted as they went over the wire. Old urllib3 does not look."""
        response = self._responses[-1]
        came: int = response.raw.tell()
        return max(_length(response) - came, 0)

    def write(self, chunk: bytes) -> None:
        """Pooch's part of the interface, and so is flush."""
        self._check(self._done + len(chunk))  # a server need not announce what it sends
        self._file.write(chunk)
        self.digest.update(chunk)
        self._done += len(chunk)
        if self._bar:
            self._bar.update(self._done >> 20)

    def flush(self) -> None:
        """Nothing: once at the end is enough."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for response in self._responses:
            response.close()


def _length(response: requests.Response) -> int:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else 0
