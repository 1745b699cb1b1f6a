"""Bad input in, one paragraph out: exit code 2, what is wrong and how to mend it, no traceback."""

import io
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import pytest
from command import TINY, assert_refused, call, copy, flip, write_text

from firstsight.lab.system.manifest import DIGESTS


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, ["no such file", "Expected plain text"]),
        (b"", ["0 lines", "expected 20 or more"]),
        (b"one two three\n" * 3, ["3 lines", "Put a line break"]),
        (b"one two three\n" * 30 + b"caf\xe9\n", ["line 31", "not UTF-8", "iconv"]),
        (b"x" * (1 << 25), ["line 1", "longer than 16 MiB", "put in line breaks"]),
        ("".join(f"once{i}\n" for i in range(40)).encode(), ["occurs 2 times", "smaller --min-count"]),
    ],
    ids=["missing", "empty", "short", "latin-1", "one long line", "no word twice"],
)
def test_text_that_is_no_corpus(content, said, tmp_path, capfd):
    source = tmp_path / "text.txt"
    if content is not None:
        source.write_bytes(content)
    assert_refused(call(capfd, "data", "text", "--from", source, "--out", tmp_path / "data"), *said)
    assert not (tmp_path / "data" / "meta.json").exists()


def archive(kind: str) -> bytes:
    buffer = io.BytesIO()
    text = os.urandom(20_000).hex().encode()
    names = [f"wikitext-2/wiki.{split}.tokens" for split in ("train", "valid", "test")]
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
            for name in names:
                file.writestr(name, text)
    else:
        with tarfile.open(fileobj=buffer, mode=f"w:{kind}") as file:
            for name in names:
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                file.addfile(entry, io.BytesIO(text))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["xz", "gz", "zip"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.4, 0.95])
def test_truncated_archive(kind, share, tmp_path, capfd):
    whole = archive(kind)
    source = tmp_path / f"wikitext.{kind}"
    source.write_bytes(whole[: int(len(whole) * share)])
    found = call(capfd, "data", "wikitext-2", "--from", source, "--out", tmp_path / "data")
    assert_refused(found, str(source), "fetch it anew")
    assert not (tmp_path / "data" / "meta.json").exists()


def test_archive_of_something_else(tmp_path, capfd):
    source = tmp_path / "wikitext.tar.xz"
    source.write_bytes(archive("xz"))
    found = call(capfd, "data", "wikitext-2", "--from", source, "--out", tmp_path / "data")
    assert_refused(found, "not the corpus as it is distributed", "fetch it anew")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--T=0"], "T is 0; expected 1 or more"),
        (["--T=-5"], "T is -5; expected 1 or more"),
        (["--gamma=1.5"], "gamma is 1.5; expected in [0, 1]"),
        (["--gamma=-0.1"], "gamma is -0.1; expected in [0, 1]"),
        (["--lr=nan"], "lr is nan; expected a finite number"),
        (["--seed=-1"], "seed is -1; expected from 0"),
        (["--accumulate=3"], "accumulate is 3; expected a divisor of batch = 4"),
        (["--recipe=large"], "recipe is 'large'; expected one of small, demo, paper"),
        (["--no-projection", "--hidden=24"], "embedding is 16 and hidden is 24"),
        (["--ranks=2"], "--ranks is 2, which only --dry-run takes"),
        (["--dry-run", "--ranks=5"], "ranks is 5; expected 1 to the sequences of a batch, 4"),
        (["--dry-run", "--resume"], "Leave --resume out"),
        (["--dry-run", "--length=100000"], "Give more text, or a smaller --batch or --length"),
        (["--length=100000"], "Give more text, or a smaller --batch or --length"),
    ],
)
def test_settings_that_cannot_be(flags, said, data, tmp_path, capfd):
    out = tmp_path / "run"
    assert_refused(call(capfd, "train", data, "--out", out, *TINY, *flags), said)
    assert not out.exists()  # so the mended command may use the same folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "DATA", "--out", "OUT", "--hiden", "3"], "--hiden"),
        (["train", "DATA", "--out", "OUT", "--head", "sotfmax"], "softmax"),
        (["train", "DATA", "--out", "OUT", "--steps", "many"], "many"),
        (["eval", "RUN", "--split", "train"], "valid"),
        (["data", "wikitext-4", "--from", "DATA", "--out", "OUT"], "wikitext-4"),
        (["data"], "stdlib"),
        (["trian"], "train"),
        ([], "train"),
    ],
)
def test_flags_and_commands_that_do_not_exist(arguments, said, data, trained, tmp_path, capfd):
    places = {"DATA": data, "OUT": tmp_path / "out", "RUN": trained}
    code, out, err = call(capfd, *(places.get(argument, argument) for argument in arguments))
    assert (code, out) == (2, "")
    assert said in err
    assert "--help" in err
    assert not (tmp_path / "out").exists()


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def cut(path: Path, end: int) -> None:
    path.write_bytes(path.read_bytes()[:end])


DAMAGED_DATA = {  # what is done to the folder (and with the file of that name of another corpus), and what is said
    "byte": ("valid.tokens", lambda file, _: flip(file, -1), ["do not fit the checksum", "Prepare the data again"]),
    "header": ("train.tokens", lambda file, _: flip(file, 5), ["header is damaged", "Prepare the data again"]),
    "cut": ("train.tokens", lambda file, _: cut(file, -4), ["cut short", "Prepare the data again"]),
    "empty": ("train.tokens", lambda file, _: cut(file, 0), ["not a token file", "Prepare the data again"]),
    "foreign": ("train.tokens", lambda file, other: shutil.copy(other, file), ["another vocabulary"]),
    "mixed": ("vocabulary.json", lambda file, other: shutil.copy(other, file), ["two corpora are mixed"]),
    "edited": ("vocabulary.json", lambda file, _: edit(file, "word1", "word0"), ["damaged or edited"]),
    "unfinished": ("meta.json", lambda file, _: file.unlink(), ["Run the firstsight data command again"]),
    "no meta": ("meta.json", lambda file, _: cut(file, 0), ["damaged", "Make it anew"]),
}


@pytest.mark.parametrize("case", DAMAGED_DATA)
def test_damaged_data(case, data, other_data, tmp_path, capfd):
    name, damage, said = DAMAGED_DATA[case]
    folder = copy(data, tmp_path / "data")
    damage(folder / name, other_data / name)
    assert_refused(call(capfd, "train", folder, "--out", tmp_path / "run", *TINY), name)
    (folder / DIGESTS).unlink()
    assert_refused(call(capfd, "train", folder, "--out", tmp_path / "run", *TINY), name, *said)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", ["nowhere", "a file", "an empty folder", "a run"])
def test_data_that_is_no_data_folder(given, trained, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("text")
    place = {"nowhere": tmp_path / "nowhere", "a file": tmp_path / "file", "a run": trained}.get(given)
    found = call(capfd, "train", place or tmp_path / "empty", "--out", tmp_path / "run", *TINY)
    assert_refused(found, "data folder", "firstsight data")


def test_eval_and_score_and_report_of_what_is_no_run(data, tmp_path, capfd):
    text = write_text(tmp_path / "text.txt")
    for command in (["eval"], ["score", text], ["report"]):
        name, *rest = command
        assert_refused(call(capfd, name, tmp_path / "nowhere", *rest), "there is no such folder", "firstsight train")
        assert_refused(call(capfd, name, data, *rest), str(data), "the folder of a run")
        assert_refused(call(capfd, name, text, *rest), "folder of a run")
    assert_refused(call(capfd, "report"), "give the folder of at least one run")


def test_texts_that_cannot_be_scored(trained, tmp_path, capfd):
    text = tmp_path / "text.txt"
    assert_refused(call(capfd, "score", trained, text), "no such file", "plain text")
    assert_refused(call(capfd, "score", trained, tmp_path), "this is a folder", "plain text")
    text.write_text("\n \n")
    assert_refused(call(capfd, "score", trained, text), "no text", "at least one word")
    text.write_bytes(b"caf\xe9\n")
    assert_refused(call(capfd, "score", trained, text), "not UTF-8", "iconv")
    text.write_bytes("word1 word2\n".encode("utf-16-le"))
    assert_refused(call(capfd, "score", trained, text), str(text), "looks like UTF-16LE", "iconv -f UTF-16LE")
    text.write_text("word1\n")
    assert_refused(call(capfd, "score", trained, text, "--top=-3"), "top is -3; expected")


DAMAGED_RUNS = {  # the files, what is done to each, and what is said
    "shape": ("config.yaml", lambda file: edit(file, "hidden: 16", "hidden: 24"), ["Put back", "config.yaml"]),
    "no settings": ("config.yaml", lambda file: cut(file, 0), ["config.yaml", "expected settings by name"]),
    "no yaml": ("config.yaml", lambda file: edit(file, "lr:", "lr: ["), ["config.yaml", "YAML", "damaged"]),
    "misspelt": ("config.yaml", lambda file: edit(file, "lr:", "rate:"), ["config.yaml", "unknown setting rate"]),
    "latin-1": ("config.yaml", lambda file: file.write_bytes(b"data: caf\xe9"), ["config.yaml", "UTF-8"]),
    "byte": ("checkpoints/*", lambda file: flip(file, file.stat().st_size // 2), ["damaged", "train again"]),
    "cut": ("checkpoints/*", lambda file: cut(file, -100), ["damaged", "train again"]),
    "empty": ("checkpoints/*", lambda file: cut(file, 0), ["damaged", "train again"]),
}


@pytest.mark.parametrize("case", DAMAGED_RUNS)
def test_damaged_run(case, data, trained, tmp_path, capfd):
    files, damage, said = DAMAGED_RUNS[case]
    folder = copy(trained, tmp_path / "run")
    for file in folder.glob(files):
        damage(file)
    assert_refused(call(capfd, "eval", folder), files.partition("*")[0], f"firstsight accept {folder}")
    (folder / DIGESTS).unlink()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert_refused(call(capfd, "eval", folder), *said)
    if case == "shape":  # resuming compares the settings first
        said = ["hidden was 16, now 24"]
    assert_refused(call(capfd, "train", data, "--out", folder, "--resume"), *said)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_eval_before_any_checkpoint(trained, tmp_path, capfd):
    folder = copy(trained, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints")
    assert_refused(call(capfd, "eval", folder), "there is no such checkpoint", "checkpoint_every")


def test_data_of_another_vocabulary_than_the_run(trained, other_data, tmp_path, capfd):
    folder = copy(trained, tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert_refused(call(capfd, "eval", folder, "--data", other_data), "another vocabulary", "Give --data")
    found = call(capfd, "train", other_data, "--out", folder, "--resume", "--steps=30")
    assert_refused(found, "another vocabulary")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_data_that_was_moved(data, tmp_path, capfd):
    moved = copy(data, tmp_path / "old")
    assert call(capfd, "train", moved, "--out", tmp_path / "run", *TINY)[0] == 0
    moved = moved.rename(tmp_path / "new")
    assert_refused(call(capfd, "eval", tmp_path / "run"), str(tmp_path / "old"), "--data")
    assert call(capfd, "eval", tmp_path / "run", "--data", moved)[0] == 0


def test_out_that_holds_a_run_and_changed_settings(data, trained, capfd):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    assert_refused(call(capfd, "train", data, "--out", trained, *TINY), "holds a run already", "--resume")
    found = call(capfd, "train", data, "--out", trained, "--resume", "--lr=0.5", "--head=softmax")
    assert_refused(found, "head was hebbian, now softmax", "lr was 0.01, now 0.5", "steps, minutes, patience")
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_output_that_cannot_be_written(data, trained, tmp_path, capfd):
    file = tmp_path / "file"
    file.write_text("not a folder\n")
    text = write_text(tmp_path / "text.txt")
    for out in (file, file / "below"):
        assert_refused(call(capfd, "data", "text", "--from", text, "--out", out), str(file))
        assert_refused(call(capfd, "train", data, "--out", out, *TINY), str(file))
        assert_refused(call(capfd, "report", trained, "--out", out), str(file))
    folder = copy(trained, tmp_path / "run")
    (folder / "result.json").unlink()
    (folder / "result.json").mkdir()
    assert_refused(call(capfd, "eval", folder), "result.json", "mend this")
    assert file.read_text() == "not a folder\n"
