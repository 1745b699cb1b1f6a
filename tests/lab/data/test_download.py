import hashlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mirror_server import Answer, MirrorServer, serve

from firstsight import InputError
from firstsight.lab.data import download
from firstsight.lab.data.download import PAUSES, NotFoundError, Polite, TooLargeError, fetch, get

BODY = bytes(range(256)) * 50
SHA256 = hashlib.sha256(BODY).hexdigest()


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def polite(self, interval: float = 0.0) -> Polite:
        return Polite(interval, self.clock, self.sleep)


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
def mirror() -> Iterator[MirrorServer]:
    with serve({"a": BODY, "second/a": BODY}) as mirror:
        yield mirror


def test_a_download_and_no_second_one(tmp_path: Path, mirror: MirrorServer, time: FakeTime) -> None:
    for checksum in (None, SHA256, SHA256.upper()):
        path = fetch(mirror.url + "a", tmp_path / "deep" / "a", sha256=checksum, polite=time.polite())
        assert path.read_bytes() == BODY
    assert mirror.requests == {"a": 1}
    assert time.slept == []
    assert all(agent.startswith("firstsight/") for agent in mirror.agents)


def test_an_md5_where_there_is_no_other(
    tmp_path: Path, mirror: MirrorServer, time: FakeTime, capfd: pytest.CaptureFixture
) -> None:
    (tmp_path / "a").write_bytes(b"old")
    md5 = hashlib.md5(BODY).hexdigest()
    for checksum in (md5, md5.upper()):
        path = fetch(mirror.url + "a", tmp_path / "a", md5=checksum, polite=time.polite())
        assert path.read_bytes() == BODY
    assert mirror.requests == {"a": 1}
    assert f"the MD5 is not {md5}: fetching the file anew" in capfd.readouterr().err
    with pytest.raises(InputError, match=rf"the MD5 is {md5}; expected {'0' * 32}.*by hand.*and shake it\.$"):
        fetch(mirror.url + "a", tmp_path / "b", md5="0" * 32, by_hand="shake it", polite=time.polite())
    assert not (tmp_path / "b").exists()


def test_a_file_with_another_checksum_is_replaced(tmp_path: Path, mirror: MirrorServer, time: FakeTime) -> None:
    (tmp_path / "a").write_bytes(b"old")
    assert fetch(mirror.url + "a", tmp_path / "a", sha256=SHA256, polite=time.polite()).read_bytes() == BODY


@pytest.mark.parametrize(
    "trouble",
    [
        Answer(500),
        Answer(503),
        Answer(429),
        Answer(200, BODY[:100], cut=len(BODY) - 100),
        Answer(200, b"", cut=len(BODY)),
        Answer(200, b"no gzip", headers={"Content-Encoding": "gzip"}),
    ],
)
def test_passing_trouble(tmp_path: Path, mirror: MirrorServer, time: FakeTime, trouble: Answer) -> None:
    mirror.script["a"] = [trouble, trouble]
    assert fetch(mirror.url + "a", tmp_path / "a", polite=time.polite()).read_bytes() == BODY
    assert mirror.requests == {"a": 3}
    assert time.slept == list(PAUSES[:2])


@pytest.mark.parametrize(("asked", "slept"), [("7", 7.0), ("99999", 120.0), ("Fri, 31 Dec 1999 23:59:59 GMT", 1.0)])
def test_retry_after(tmp_path: Path, mirror: MirrorServer, time: FakeTime, asked: str, slept: float) -> None:
    mirror.script["a"] = [Answer(503, headers={"Retry-After": asked})]
    fetch(mirror.url + "a", tmp_path / "a", polite=time.polite())
    assert time.slept == [slept]


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (Answer(500), r"status 500 \(Internal Server Error\)"),
        (Answer(200, BODY[:9], cut=99), r"9 bytes read, 99 more expected"),
    ],
)
def test_lasting_trouble(tmp_path: Path, mirror: MirrorServer, time: FakeTime, trouble: Answer, said: str) -> None:
    mirror.script["a"] = [trouble] * 9
    with pytest.raises(InputError, match=said) as caught:
        fetch(mirror.url + "a", tmp_path / "a", polite=time.polite())
    assert not isinstance(caught.value, NotFoundError)
    assert mirror.url + "a" in str(caught.value)
    assert "--from FILE" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.slept == list(PAUSES)
    assert list(tmp_path.iterdir()) == []


def test_cut_short_where_urllib3_does_not_look(
    tmp_path: Path, mirror: MirrorServer, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urllib3.response import HTTPResponse

    monkeypatch.setattr(HTTPResponse, "enforce_content_length", False, raising=False)
    original = HTTPResponse.__init__

    def old(self, *args, **kwargs):  # what version 1 does by default
        original(self, *args, **{**kwargs, "enforce_content_length": False})

    monkeypatch.setattr(HTTPResponse, "__init__", old)
    mirror.script["a"] = [Answer(200, BODY[:100], cut=5)] * 9
    with pytest.raises(InputError, match="cut short, 5 bytes are missing"):
        fetch(mirror.url + "a", tmp_path / "a", polite=time.polite())


@pytest.mark.parametrize("status", [403, 404, 410])
def test_no_such_file(tmp_path: Path, mirror: MirrorServer, time: FakeTime, status: int) -> None:
    mirror.script["x"] = [Answer(status)]
    with pytest.raises(NotFoundError, match=f"{mirror.url}x: status {status}") as caught:
        fetch([mirror.url + "x", mirror.url + "y"], tmp_path / "x", polite=time.polite())
    assert caught.value.refused == (status == 403)
    assert mirror.requests == {"x": 1, "y": 1}
    assert time.slept == []
    assert list(tmp_path.iterdir()) == []


def test_the_next_mirror(tmp_path: Path, mirror: MirrorServer, time: FakeTime) -> None:
    urls = [mirror.url + "none", mirror.url + "second/a"]
    assert fetch(urls, tmp_path / "a", polite=time.polite()).read_bytes() == BODY
    mirror.script["a"] = [Answer(500)] * 9
    with pytest.raises(InputError, match=r"none: status 404.*a: status 500") as caught:
        fetch([mirror.url + "none", mirror.url + "a"], tmp_path / "b", polite=time.polite())
    assert not isinstance(caught.value, NotFoundError)


def test_a_wrong_checksum_is_a_failed_mirror(tmp_path: Path, mirror: MirrorServer, time: FakeTime) -> None:
    mirror.script["a"] = [Answer(200, b"something else")] * 2
    with pytest.raises(InputError, match=f"{hashlib.sha256(b'something else').hexdigest()}; expected {SHA256}"):
        fetch(mirror.url + "a", tmp_path / "a", sha256=SHA256, polite=time.polite())
    assert list(tmp_path.iterdir()) == []
    urls = [mirror.url + "a", mirror.url + "second/a"]
    assert fetch(urls, tmp_path / "a", sha256=SHA256, polite=time.polite()).read_bytes() == BODY
    assert mirror.requests == {"a": 2, "second/a": 1}


def test_connection_refused(tmp_path: Path, time: FakeTime) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a"
    with pytest.raises(InputError, match=r"[Cc]onnection refused") as caught:
        fetch(url, tmp_path / "a", polite=time.polite())
    assert "\n" not in str(caught.value)
    assert time.slept == list(PAUSES)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/a", "file:///etc/passwd", "a", "http://", "http://[/a"])
def test_no_address(tmp_path: Path, time: FakeTime, url: str) -> None:
    with pytest.raises(InputError):
        fetch(url, tmp_path / "a", polite=time.polite())
    assert time.slept == []


def test_a_server_that_does_not_answer(tmp_path: Path, time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(InputError, match="timed out"):
        fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/a", tmp_path / "a", polite=time.polite())
    assert time.slept == list(PAUSES)


def test_the_rate_is_bounded(mirror: MirrorServer, time: FakeTime) -> None:
    polite = time.polite(0.5)
    mirror.script["a"] = [Answer(500)]
    starts = []
    for work in (0.0, 0.2, 3.0, 0.0):
        assert get(mirror.url + "second/a", polite=polite) == BODY
        starts.append(time.now)
        time.now += work
    assert starts == pytest.approx([100.0, 100.5, 101.0, 104.0])
    assert time.slept == pytest.approx([0.5, 0.3])
    get(mirror.url + "a", polite=polite)  # a retry waits for its turn too
    assert time.slept[2:] == pytest.approx([0.5, PAUSES[0]])


def test_a_long_file_shows_how_far_it_is(
    tmp_path: Path, mirror: MirrorServer, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = []
    monkeypatch.setattr(download, "_BAR_FROM", 1 << 20)
    monkeypatch.setattr(download.Bar, "update", lambda self, done: shown.append((self._total, done)))
    mirror.files["long"] = bytes(3 << 20)
    fetch(mirror.url + "a", tmp_path / "a", polite=time.polite())
    assert shown == []
    fetch(mirror.url + "long", tmp_path / "long", polite=time.polite())
    assert shown[-1] == (3, 3)
    assert [done for _, done in shown] == sorted(done for _, done in shown)


def test_a_full_disk_is_no_failed_mirror(
    tmp_path: Path, mirror: MirrorServer, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, chunk: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download._Sink, "write", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        fetch(mirror.url + "a", tmp_path / "a", polite=time.polite())
    assert caught.value.filename == str(tmp_path / "a")
    assert mirror.requests == {"a": 1}


def test_a_body_past_the_bound_is_refused_by_what_is_announced(
    tmp_path: Path, mirror: MirrorServer, time: FakeTime
) -> None:
    mirror.script["a"] = [Answer(200, b"", cut=300 << 20)]  # whose body never comes: nothing waits for it
    with pytest.raises(TooLargeError, match=r"a: 314,572,800 bytes or more are there; expected 12,800 at the most"):
        fetch(mirror.url + "a", tmp_path / "a", most=len(BODY), polite=time.polite())
    mirror.script["a"] = [Answer(200, b"", cut=300 << 20)]
    with pytest.raises(TooLargeError, match="expected 99 at the most"):
        get(mirror.url + "a", most=99, polite=time.polite())
    assert list(tmp_path.iterdir()) == []
    assert mirror.requests == {"a": 2}
    assert time.slept == []
    assert fetch(mirror.url + "a", tmp_path / "a", most=len(BODY), polite=time.polite()).read_bytes() == BODY


def test_a_body_past_the_bound_that_is_not_announced(
    tmp_path: Path, time: FakeTime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that streams without end is heard no further than the bound, and nothing of it stays."""
    written = []
    write = download._Sink.write
    monkeypatch.setattr(download._Sink, "write", lambda self, chunk: (written.append(len(chunk)), write(self, chunk)))
    with endless() as url, pytest.raises(TooLargeError, match="expected 1,000,000 at the most"):
        fetch(url, tmp_path / "a", most=1_000_000, polite=time.polite())
    assert 1_000_000 < sum(written) < 1_100_000
    assert list(tmp_path.iterdir()) == []


@contextmanager
def endless() -> Iterator[str]:
    """A server whose one answer announces no length and does not end."""

    def answer() -> None:
        connection, _ = server.accept()
        with connection, suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                connection.sendall(bytes(1 << 16))

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/a"
        thread.join()


def test_a_mirror_with_something_too_large_is_a_failed_mirror(
    tmp_path: Path, mirror: MirrorServer, time: FakeTime
) -> None:
    mirror.script["a"] = [Answer(200, BODY + b"more")] * 2
    urls = [mirror.url + "a", mirror.url + "second/a"]
    assert fetch(urls, tmp_path / "a", most=len(BODY), polite=time.polite()).read_bytes() == BODY
    with pytest.raises(InputError, match=r"at the most.*status 404") as caught:
        fetch([mirror.url + "a", mirror.url + "none"], tmp_path / "b", most=len(BODY), polite=time.polite())
    assert not isinstance(caught.value, TooLargeError)
