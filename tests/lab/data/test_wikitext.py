import hashlib
import io
import os
import random
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from mirror_server import serve

from firstsight.errors import InputError
from firstsight.lab.data import Corpus, corpus, open_corpus, summary, wikitext
from firstsight.lab.data.download import Polite, fetch

FILES = {
    "wikitext-2/wiki.train.tokens": " \n = Tree = \n \n A tree <unk> in \u3000 the\u2028wood , \u00e9t\u00e9 . \n",
    "wikitext-2/wiki.valid.tokens": " \n A wood \n",
    "wikitext-2/wiki.test.tokens": " the tree\n \n",
}
COUNTS = {"train": 16, "valid": 4, "test": 4, "vocabulary": 12}


def as_folder(path: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(text.encode())
    return path


def as_tar(path: Path, files: dict[str, str], mode: str = "w:xz") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


def as_zip(path: Path, files: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def as_tar_gz(path: Path, files: dict[str, str]) -> Path:
    return as_tar(path, files, "w:gz")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "shared" not in request.keywords:
        monkeypatch.setitem(wikitext.EXPECTED, "wikitext-2", COUNTS)


@pytest.mark.parametrize("pack", [as_folder, as_tar, as_tar_gz, as_zip])
def test_every_kind_of_source(tmp_path: Path, pack: Callable[[Path, dict[str, str]], Path]) -> None:
    corpus = wikitext.prepare(pack(tmp_path / "source", FILES), tmp_path / "out")
    expected = "<eos> = Tree = <eos> <eos> A tree <unk> in the wood , été . <eos>"
    assert corpus.vocabulary.decode(corpus.split("train")) == expected.split()
    assert corpus.vocabulary.decode(corpus.split("valid")) == ["<eos>", "A", "wood", "<eos>"]
    assert corpus.vocabulary.decode(corpus.split("test")) == ["the", "tree", "<eos>", "<eos>"]
    assert len(corpus.meta["sources"][0]["sha256"]) == 64


def test_nothing_is_unpacked(tmp_path: Path) -> None:
    source = as_tar(tmp_path / "x.tar.xz", {"../../evil.txt": "x", "/etc/evil": "y", **FILES})
    wikitext.prepare(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.tar.xz"]
    assert not (tmp_path.parent / "evil.txt").exists()


@pytest.mark.parametrize("pack", [as_tar, as_tar_gz, as_zip])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_truncated(tmp_path: Path, pack: Callable[[Path, dict[str, str]], Path], share: float) -> None:
    noise = " ".join(str(hash((i, 7)) % 10**9) for i in range(20_000))
    source = pack(tmp_path / "source", {**FILES, "wikitext-2/wiki.test.tokens": noise, "wikitext-2/pad": noise[::-1]})
    raw = source.read_bytes()
    source.write_bytes(raw[: int(len(raw) * share)])
    with pytest.raises(InputError, match=r"cut short") as caught:
        wikitext.prepare(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "meta.json").exists()


@pytest.mark.parametrize("pack", [as_tar, as_tar_gz, as_zip])
def test_altered_inside(tmp_path: Path, pack: Callable[[Path, dict[str, str]], Path]) -> None:
    noise = " ".join(str(i * 7919 % 10**6) for i in range(20_000))
    source = pack(tmp_path / "source", {**FILES, "wikitext-2/wiki.train.tokens": noise})
    raw = bytearray(source.read_bytes())
    middle = len(raw) // 2
    raw[middle : middle + 40] = bytes(40)
    source.write_bytes(raw)
    with pytest.raises(InputError, match=r"damaged|at the most|not UTF-8"):
        wikitext.prepare(source, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"plain text " * 99, "or it is none"), (b"PK\x03\x04rest", "damaged or was cut short")],
)
def test_no_archive(tmp_path: Path, content: bytes, message: str) -> None:
    source = tmp_path / "source.zip"
    source.write_bytes(content)
    with pytest.raises(InputError, match=message):
        wikitext.prepare(source, tmp_path / "out")


@pytest.mark.parametrize("pack", [as_folder, as_tar, as_zip])
@pytest.mark.parametrize("missing", list(FILES))
def test_missing_member(tmp_path: Path, pack: Callable[[Path, dict[str, str]], Path], missing: str) -> None:
    files = {name: text for name, text in FILES.items() if name != missing}
    with pytest.raises(InputError, match=f"there is no {Path(missing).name}"):
        wikitext.prepare(pack(tmp_path / "source", files), tmp_path / "out")


def test_not_utf8(tmp_path: Path) -> None:
    source = as_folder(tmp_path / "source", FILES)
    (source / "wikitext-2/wiki.train.tokens").write_bytes(b"abc\nd\xe9f\n")
    with pytest.raises(InputError, match=r"wiki.train.tokens: line 2 is not UTF-8 \(byte 0xe9 at position 5"):
        wikitext.prepare(source, tmp_path / "out")


def test_many_times_the_text_is_refused_by_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small zip holds hours of one line, and the number of tokens is known."""
    monkeypatch.undo()  # the real numbers
    source = as_zip(tmp_path / "a.zip", {**FILES, "wikitext-2/wiki.train.tokens": "the same line\n" * 1_000_000})
    with pytest.raises(InputError, match=r"a.zip: wiki.train.tokens has 14,000,000 bytes, .* 12,531,768 at the most"):
        wikitext.prepare(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pack", [as_tar, as_tar_gz, as_zip])
def test_names_do_not_reach_the_terminal_as_they_are(
    tmp_path: Path, pack: Callable[[Path, dict[str, str]], Path]
) -> None:
    with pytest.raises(InputError, match=r"which holds 'a\\x1b\[2J\\u202e'\. Expected"):
        wikitext.prepare(pack(tmp_path / "source", {"a\x1b[2J\u202e": ""}), tmp_path / "out")


def test_two_corpora_in_a_folder(tmp_path: Path) -> None:
    files = {**FILES, **{name.replace("-2", "-103"): text for name, text in FILES.items()}}
    with pytest.raises(InputError, match=r"wiki\.train\.tokens is there 2 times, .*-103/wiki.* Give one's folder"):
        wikitext.prepare(as_folder(tmp_path / "source", files), tmp_path / "out")


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match=f"{path}: this is a"):
            wikitext.prepare(path, tmp_path / "out")
    source = as_folder(tmp_path / "source", FILES)
    (source / "wikitext-2/wiki.test.tokens").unlink()
    os.mkfifo(source / "wikitext-2/wiki.test.tokens")
    with pytest.raises(InputError, match=r"wiki\.test\.tokens: this is a pipe"):
        wikitext.prepare(source, tmp_path / "out")


@pytest.mark.parametrize("pack", [as_tar, as_tar_gz, as_zip])
def test_one_bit_turned_gives_the_same_tokens_or_an_error(
    tmp_path: Path, pack: Callable[[Path, dict[str, str]], Path]
) -> None:
    source = pack(tmp_path / "source", FILES)
    raw, rng = bytearray(source.read_bytes()), random.Random(0)
    whole = {name: text.encode() for name, text in FILES.items()}
    said: set[bool] = set()
    for position in rng.sample(range(8 * len(raw)), 150):
        raw[position // 8] ^= 1 << position % 8
        source.write_bytes(raw)
        raw[position // 8] ^= 1 << position % 8
        try:
            wikitext._check_sizes(source, "wikitext-2", {split: f"wiki.{split}.tokens" for split in corpus.SPLITS})
            found = {name: "\n".join(wikitext._lines(source, Path(name).name)) + "\n" for name in FILES}
        except InputError as error:
            said.add(str(error).startswith(f"{source}: "))
        else:
            assert {name: text.encode() for name, text in found.items()} == whole, position
    assert said == {True}


def test_missing_source_and_variant(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        wikitext.prepare(tmp_path / "nothing.zip", tmp_path / "out")
    with pytest.raises(InputError, match="'wikitext-4'; expected one of wikitext-2, wikitext-103"):
        wikitext.prepare(tmp_path, tmp_path / "out", "wikitext-4")


def test_other_corpus(tmp_path: Path) -> None:
    files = {**FILES, "wikitext-2/wiki.valid.tokens": "A wood \n"}
    with pytest.raises(InputError, match="valid 3 instead of 4"):
        wikitext.prepare(as_tar(tmp_path / "source", files), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def wikitext_2(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return wikitext.prepare(shared_data / "wikitext-2/wikitext-2.tar.xz", tmp_path_factory.mktemp("wikitext-2"))


@pytest.mark.shared
def test_wikitext_2_counts(wikitext_2: Corpus) -> None:
    result = summary(open_corpus(wikitext_2.folder))
    assert result["tokens"] == {"train": 2_088_628, "valid": 217_646, "test": 245_569}
    assert result["vocabulary"] == 33_278
    # Every unknown token is a distributed <unk>: neither held-out split has a type that training lacks.
    assert {split: round(share * result["tokens"][split]) for split, share in result["unknown"].items()} == {
        "valid": 11_718,
        "test": 15_218,
    }
    assert wikitext_2.vocabulary.counts[0] == 54_625
    assert wikitext_2.vocabulary.counts.sum() == 2_088_628


@pytest.mark.shared
def test_evaluation_files_alone_are_not_a_corpus(shared_data: Path, tmp_path: Path) -> None:
    source = shared_data / "wikitext-103/wikitext-103-eval.tar.xz"
    with pytest.raises(InputError, match=r"there is no wiki\.train\.tokens in this archive, which holds wikitext-103/"):
        wikitext.prepare(source, tmp_path, "wikitext-103")


def test_without_a_source_the_archive_is_downloaded_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = as_zip(tmp_path / "a.zip", FILES).read_bytes()
    monkeypatch.setitem(wikitext.EXPECTED, "wikitext-2", COUNTS)
    monkeypatch.setattr(wikitext, "fetch", partial(fetch, polite=Polite(0, sleep=lambda _: None)))
    name = "wikitext-2-v1.zip"
    with serve({f"bad/{name}": archive[:-1], f"good/{name}": archive}) as mirror:
        mirrors = [f"{mirror.url}/bad", f"{mirror.url}/good"]
        with pytest.raises(InputError, match="SHA-256"):  # neither is the archive as it is distributed
            wikitext.download("wikitext-2", tmp_path / "cache", mirrors)
        assert not list((tmp_path / "cache").rglob("*.zip"))
        monkeypatch.setitem(wikitext._SHA256, "wikitext-2", hashlib.sha256(archive).hexdigest())
        monkeypatch.setattr(wikitext, "download", partial(wikitext.download, mirrors=mirrors))
        made = wikitext.prepare(None, tmp_path / "out", cache=tmp_path / "cache")
        wikitext.prepare(None, tmp_path / "out", cache=tmp_path / "cache")
    assert made.meta["tokens"] == {split: COUNTS[split] for split in ("train", "valid", "test")}
    assert mirror.requests[f"good/{name}"] == 2  # once above; the second preparation takes it from the cache


def test_a_cache_without_a_download(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Leave one of them out"):
        wikitext.prepare(as_zip(tmp_path / "a.zip", FILES), tmp_path / "out", cache=tmp_path / "cache")


def test_wikitext_103_is_counted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"wikitext-103.* 103,227,021"):
        wikitext.prepare(as_zip(tmp_path / "a.zip", FILES), tmp_path / "out", "wikitext-103")


@pytest.mark.shared
def test_wikitext_103_evaluation_text_has_its_counts(shared_data: Path) -> None:
    archive = shared_data / "wikitext-103" / "wikitext-103-eval.tar.xz"
    for split in ("valid", "test"):
        lines = wikitext._lines(archive, f"wiki.{split}.tokens")
        assert sum(len(line.split()) + 1 for line in lines) == wikitext.EXPECTED["wikitext-103"][split]
    with pytest.raises(InputError, match=r"no wiki\.train\.tokens"):
        list(wikitext._lines(archive, "wiki.train.tokens"))
