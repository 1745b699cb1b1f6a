import json
from pathlib import Path

import pytest
from mirror_books import ASKED, EXPECTED, FILES, UNDER_1, contents, quick, text
from mirror_server import Answer, serve

from firstsight import InputError
from firstsight.lab.data.download import Polite
from firstsight.lab.data.gutenberg import web
from firstsight.lab.data.gutenberg.source import VARIANTS


def test_a_mirror_on_the_web_is_the_same(tmp_path: Path) -> None:
    with serve(FILES) as mirror:
        books = quick(mirror.url, tmp_path)
        assert books.books() == sorted([*UNDER_1, 10501])  # whether a folder has text is not in the index
        assert contents(books.read(ASKED)) == EXPECTED
        assert list(books.damaged) == [10500]
        # Variants are asked for in order, and nothing past the one that is there.
        asked = [path.rpartition("/")[2] for path in mirror.requests if "/10268/" in path or "/10269/" in path]
        assert sorted(asked) == ["10268.txt", "10269-8.txt", "10269.txt"]
        assert max(mirror.requests.values()) == 1


def test_troubles_of_a_server(tmp_path: Path) -> None:
    path = "1/0/2/6/10268/10268.txt"
    with serve(FILES, index=False) as mirror:
        mirror.script[path] = [Answer(500), Answer(200, text(1)[:10], cut=2990)]
        assert contents(quick(mirror.url, tmp_path / "a").read([10268])) == {10268: EXPECTED[10268]}
        assert mirror.requests[path] == 3
        mirror.script[path] = [Answer(503)] * 9
        with pytest.raises(InputError, match=f"{path}: status 503"):
            list(quick(mirror.url, tmp_path / "b").read([10269, 10268]))
        books = quick(mirror.url, tmp_path / "c")
        mirror.script[path] = [Answer(404)]  # the next variant then
        assert contents(books.read([10268, 7777])) == {10268: ("10268-8.txt", text(2))}
        assert books.damaged == {}
        with pytest.raises(InputError, match=r"has no index of this folder.*--books listed"):
            books.books()


def test_a_page_that_is_no_index(tmp_path: Path) -> None:
    page = b"<a href='/about/'>a</a><a href='http://127.0.0.1:1/1/0/'>b</a><a href='10/x'>c</a>"
    with serve({"1/": page}) as mirror, pytest.raises(InputError, match="lists no folders here"):
        quick(mirror.url, tmp_path).books()
    with serve({}) as mirror:
        books = quick(mirror.url, tmp_path)
        links = f'<a href="/1/10/"></a><a href="{mirror.url}1/11/">x</a><A HREF="./12/">x</A><a href="999/">x</a><a>'
        mirror.files["1/"] = links.encode()
        assert books.books() == [10, 11, 12]


def test_the_index_of_a_folder_is_gone(tmp_path: Path) -> None:
    with serve(FILES) as mirror:
        mirror.script["1/0/2/"] = [Answer(404)]
        with pytest.raises(InputError, match="1/0/2/: the server has no index"):
            quick(mirror.url, tmp_path).books()


def test_a_second_run_asks_for_nothing(tmp_path: Path) -> None:
    with serve(FILES) as mirror:
        first = quick(mirror.url, tmp_path)
        first.books()
        list(first.read(ASKED))
        asked = mirror.requests.total()
        assert contents(first.read(ASKED)) == EXPECTED
        again = quick(mirror.url, tmp_path)
        assert again.books() == sorted([*UNDER_1, 10501])
        assert contents(again.read(ASKED)) == EXPECTED
        assert mirror.requests.total() == asked


def test_what_was_absent_is_asked_for_again_the_day_after(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(dict(FILES)) as mirror:
        list(quick(mirror.url, tmp_path).read([7777, 10268]))
        mirror.files["7/7/7/7777/7777.txt"] = b"new"
        assert contents(quick(mirror.url, tmp_path).read([7777])) == {}
        monkeypatch.setattr(web, "MEMORY_SECONDS", 0)
        assert contents(quick(mirror.url, tmp_path).read([7777, 10268])).keys() == {7777, 10268}
        assert mirror.requests["1/0/2/6/10268/10268.txt"] == 1


@pytest.mark.parametrize("harm", ["a flipped bit", "cut", "no checksum yet"])
def test_a_damaged_file_in_the_cache_is_fetched_anew(tmp_path: Path, capsys: pytest.CaptureFixture, harm: str) -> None:
    path = "1/0/2/6/10268/10268.txt"
    with serve(FILES) as mirror:
        list(quick(mirror.url, tmp_path).read([10268]))
        if harm == "no checksum yet":
            (path_of_index,) = tmp_path.rglob("index.json")
            index = json.loads(path_of_index.read_text())
            path_of_index.write_text(json.dumps({**index, "sha256": {}}))
        else:
            raw = text(1)[:-1] if harm == "cut" else bytes([text(1)[0] ^ 1]) + text(1)[1:]
            next(tmp_path.rglob(path)).write_bytes(raw)
        assert contents(quick(mirror.url, tmp_path).read([10268])) == {10268: EXPECTED[10268]}
        assert mirror.requests[path] == 2
        assert next(tmp_path.rglob(path)).read_bytes() == text(1)
        assert ("fetching it anew" in capsys.readouterr().err) == (harm != "no checksum yet")


@pytest.mark.parametrize(
    "index",
    ["", "{", "[]", "7", "{}", '{"sha256": {}}', '{"since": "now", "sha256": {}, "absent": [], "books": null}']
    + ['{"since": 1, "sha256": [], "absent": [], "books": null}', '{"since": 1, "sha256": {}, "absent": []}'],
)
def test_a_damaged_index_of_the_cache(tmp_path: Path, index: str) -> None:
    (tmp_path / "127.0.0.1_1").mkdir()
    (tmp_path / "127.0.0.1_1" / "index.json").write_text(index)
    with pytest.raises(InputError, match=r"index\.json: this should be the checksums of downloaded books.*damaged"):
        quick("http://127.0.0.1:1", tmp_path)


def test_a_server_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(FILES) as mirror:
        for variant in VARIANTS:
            mirror.script[f"0/7/7{variant}"] = [Answer(403)] * 9
        books = quick(mirror.url, tmp_path)
        assert list(contents(books.read([7, 10268]))) == [10268]
        assert books.damaged[7].count("the server refuses it (status 403)") == len(VARIANTS)
        monkeypatch.setattr(web, "MAX_REFUSALS", 6)
        with pytest.raises(InputError, match=r"refused 6 requests in a row.*7-0\.zip"):
            list(books.read([10268, 7]))


def test_requests_keep_their_distance(tmp_path: Path) -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    with serve(FILES) as mirror:
        books = web.WebSource(mirror.url, tmp_path, Polite(0.5, lambda: now[0], sleep))
        books.books()
        list(books.read(ASKED))
        assert slept == [0.5] * (mirror.requests.total() - 1)


def test_the_cache_of_two_mirrors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(web.pooch, "os_cache", lambda name: tmp_path / name)
    with serve(FILES) as one, serve({"pub/" + name: raw for name, raw in FILES.items()}) as two:
        list(quick(one.url, None).read([10268]))
        list(quick(two.url + "pub", None).read([10268]))
        folders = {
            path.relative_to(tmp_path / "firstsight/gutenberg").as_posix() for path in tmp_path.rglob("10268.txt")
        }
    ports = [mirror.url.split(":")[2].strip("/") for mirror in (one, two)]
    inside = "1/0/2/6/10268/10268.txt"
    assert folders == {f"127.0.0.1_{ports[0]}/{inside}", f"127.0.0.1_{ports[1]}/pub/{inside}"}


def test_a_book_of_300_megabytes_does_not_get_into_the_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = "1/0/2/6/10268/10268.txt"
    with serve({**FILES, "1/0/101/101-0.zip": b""}) as mirror:
        mirror.script[path] = [Answer(200, b"", cut=300 << 20)]
        mirror.script["1/0/101/101-0.zip"] = [Answer(200, b"", cut=300 << 20)]
        books = quick(mirror.url, tmp_path)
        assert contents(books.read([10268, 101])) == {10268: ("10268-8.txt", text(2))}
    assert books.damaged == {101: "101-8.zip: a damaged zip (File is not a zip file); 101-0.zip: larger than 64 MiB"}
    assert sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file()) < 10_000
    said = " ".join(capsys.readouterr().err.split())
    assert f"{mirror.url}: book 10268 is read from 10268-8.txt, since of others 10268.txt: larger than 64 MiB" in said
