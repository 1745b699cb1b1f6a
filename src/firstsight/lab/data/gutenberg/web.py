"""Books from a Project Gutenberg mirror over HTTP, kept in a cache with their checksums."""

import hashlib
import re
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pooch

from firstsight.errors import InputError
from firstsight.lab.data.download import POLITE, NotFoundError, Polite, TooLargeError, fetch, get
from firstsight.lab.data.gutenberg.source import MAX_BYTES, DamagedError, Source, folder_of
from firstsight.lab.system.files import read_json, write_json
from firstsight.lab.system.progress import say

MEMORY_SECONDS = 24 * 3600
"""How long the list of books and the answers "no such file" count as known: an interrupted run goes on without asking
for them again, and a mirror that has new books is seen to have them the day after (our decision)."""

MAX_REFUSALS = 60
"""Requests in a row, ten books' worth, that a server refuses (403) before it counts as having shut us out."""


_MOST_OF_A_PAGE = 16 << 20  # bytes of an index of a folder, which has ten folders and some books in it


class WebSource(Source):
    """The books of a mirror at an address.

    A book is downloaded once: the cache keeps the mirror's layout, and beside it index.json with the SHA-256 of every
    file, so that a file that is damaged on the disk is noticed and fetched anew.
    """

    remote = True

    def __init__(self, url: str, cache: Path | None = None, polite: Polite = POLITE) -> None:
        super().__init__(url)
        self._url = url.rstrip("/") + "/"
        parts = urlsplit(self._url)
        place = (parts.netloc + parts.path).rstrip("/").replace(":", "_").replace("..", "_")
        self._cache = (cache or Path(pooch.os_cache("firstsight")) / "gutenberg") / place
        self._polite = polite
        self._index = self._cache / "index.json"
        self._known: dict[str, Any] = {"since": time.time(), "sha256": {}, "absent": [], "books": None}
        self._refusals = 0
        if self._index.exists():
            known = _read_index(self._index)
            fresh = 0 <= time.time() - known["since"] < MEMORY_SECONDS
            self._known = known if fresh else {**self._known, "sha256": known["sha256"]}

    def books(self) -> list[int]:
        """The ids that the index pages under the folder 1 name: 1,100 requests the first time, none within a day."""
        if self._known["books"] is None:
            self._known["books"] = sorted(self._crawl("1"))
            self._save()
        return list(self._known["books"])

    def _crawl(self, digits: str) -> Iterator[int]:
        """The books under the folder of these digits, out of the index pages of the server."""
        folder = "/".join(digits)
        if len(digits) == 2:
            say(f"{self._url}{folder}/: looking for books")
        for name in self._folders(f"{self._url}{folder}/"):
            if len(name) == 1 and len(digits) < 5:  # ids have no more digits than six
                yield from self._crawl(digits + name)
            elif folder_of(int(name)) == f"{folder}/{name}":
                yield int(name)

    def _folders(self, url: str) -> list[str]:
        page = _Links(url)
        try:
            page.feed(get(url, most=_MOST_OF_A_PAGE, polite=self._polite).decode("utf-8", errors="replace"))
        except NotFoundError as error:
            raise _no_index(url, "has no index of this folder") from error
        if url == f"{self._url}1/" and not page.folders:
            raise _no_index(url, "lists no folders here")
        return sorted(page.folders)

    def _file(self, book: int, name: str) -> tuple[str, bytes] | None:
        path = f"{folder_of(book)}/{name}"
        if path in self._known["absent"]:
            return None
        raw = self._cached(path)
        if raw is None:
            try:
                fetch(self._url + path, self._cache / path, most=MAX_BYTES, polite=self._polite)
            except TooLargeError as error:
                raise DamagedError(f"larger than {MAX_BYTES >> 20} MiB") from error
            except NotFoundError as error:
                self._missing(path, error)
                return None
            self._refusals = 0
            raw = (self._cache / path).read_bytes()
            self._known["sha256"][path] = hashlib.sha256(raw).hexdigest()
            self._save()
        return self._url + path, raw

    def _cached(self, path: str) -> bytes | None:
        """A downloaded file as it was when it came; any other is removed."""
        file = self._cache / path
        if not file.exists():
            return None
        raw = file.read_bytes()
        checksum = self._known["sha256"].get(path)
        if checksum == hashlib.sha256(raw).hexdigest():
            return raw
        if checksum:  # without one the last run was killed between the file and its checksum
            say(f"{file}: this file has changed since it was downloaded: fetching it anew.")
        file.unlink()
        return None

    def _missing(self, path: str, error: NotFoundError) -> None:
        """Note a file that the server does not have, or says that it does not give."""
        if not error.refused:
            self._refusals = 0
            self._known["absent"].append(path)
            self._save()
            return
        self._refusals += 1
        if self._refusals == MAX_REFUSALS:
            raise InputError(
                f"{self._url}: this server has refused {MAX_REFUSALS} requests in a row (status 403), the last for "
                f"{path}: it does not want downloads by programs. Use another mirror of "
                "https://www.gutenberg.org/MIRRORS.ALL, or rsync one and use --from FOLDER with it."
            ) from error
        raise DamagedError("the server refuses it (status 403)") from error

    def _save(self) -> None:
        write_json(self._index, self._known)


def _read_index(path: Path) -> dict[str, Any]:
    known = read_json(path, "the checksums of downloaded books")
    kinds = {"since": int | float, "sha256": dict, "absent": list, "books": list | None}
    if not isinstance(known, dict) or any(not isinstance(known.get(name, ...), kinds[name]) for name in kinds):
        raise InputError(
            f"{path}: this should be the checksums of downloaded books but is damaged. Delete it: the books beside it "
            "are then fetched anew."
        )
    return known


class _Links(HTMLParser):
    """The folders named by digits that a page of a server links to, of those right below the page."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.folders: set[str] = set()
        self._url = url

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Part of the interface of HTMLParser."""
        target = urljoin(self._url, dict(attrs).get("href") or "")
        name = target.removeprefix(self._url)
        if tag == "a" and target != name and re.fullmatch(r"[0-9]{1,9}/", name):
            self.folders.add(name[:-1])


def _no_index(url: str, what: str) -> InputError:
    return InputError(
        f"{url}: the server {what}, so that there is no telling which books it has. Use --books listed, which needs "
        "no index, or rsync the mirror and use --from FOLDER with it."
    )
