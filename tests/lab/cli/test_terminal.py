"""Where a command's lines go: readers that leave, full disks, small alphabets, and names that a terminal would obey."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command import TINY, assert_refused, call, copy, hear, write_text

from firstsight.lab import cli
from firstsight.lab.cli import output

ROOT = Path(cli.__file__).parent
BYTES = os.fsdecode(b"caf\xe9")
ACTS = ["\x1b[31mred", "\x9b2J", "\u202eevil", "bell\x07", "[/foo]", "[red]x", "a$b$c", "$\\frac", "naïve"]
SEEN = [r"\x1b[31mred", r"\x9b2J", r"\u202eevil", r"bell\x07", "[/foo]", "[red]x", "a$b$c", "$\\frac", "naïve"]
NAME = "x[/foo] [red]\x1b[2J\u202e $\\frac a$b$c"
SHELL = "export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1; "


def shell(line: str, *arguments: object, **options) -> tuple[int, str, str]:
    """A line of bash, in which $FS is the command and $1 and so on are the arguments."""
    command = ["bash", "-c", f'{SHELL}FS="{sys.executable} -m firstsight"; {line}', "bash", *map(os.fspath, arguments)]
    done = subprocess.run(command, capture_output=True, timeout=120, preexec_fn=hear, **options)
    return done.returncode, done.stdout.decode(errors="surrogateescape"), done.stderr.decode(errors="surrogateescape")


def quiet(text: str) -> bool:
    """Whether nothing in it acts on a terminal."""
    return all(line.isprintable() for line in text.split("\n"))


@pytest.fixture(scope="module")
def acting(tmp_path_factory) -> Path:
    """A corpus whose words would act on a terminal, in a folder of such a name."""
    folder = tmp_path_factory.mktemp("acting") / NAME
    folder.mkdir(parents=True)
    text = write_text(folder / "text.txt")
    lines = text.read_text().splitlines()
    text.write_text("".join(f"{line} {' '.join(ACTS[i % 3 :: 3])}\n" for i, line in enumerate(lines)))
    data = ["data", "text", "--from", str(text), "--out", str(folder / "data")]
    assert cli.main([*data, "--min-count", "1", "--tokenizer", "whitespace"]) == 0
    return folder


@pytest.fixture(scope="module")
def acting_run(acting) -> Path:
    assert cli.main(["train", str(acting / "data"), "--out", str(acting / "run"), *TINY]) == 0
    return acting / "run"


def test_names_and_words_of_others_do_nothing_on_a_terminal(acting, acting_run, tmp_path, capfd):
    text = tmp_path / "text.txt"
    text.write_text("word0 word1\n" + " ".join(ACTS) + "\n")
    score = call(capfd, "score", acting_run, text)
    for word in SEEN:
        assert word in score[1]
    where, name = str(acting)[: -len(NAME)], r"x[/foo] [red]\x1b[2J\u202e $\frac a$b$c"
    commands = [
        ["data", "info", acting / "data"],
        ["data", "audit", acting / "data"],
        ["eval", acting_run, "--memory", "cache"],
        ["adapt", acting_run, "--text", text],
        ["adapt", acting_run, "--text", text, "--open"],
    ]
    for code, out, err in [score, *(call(capfd, *command) for command in commands)]:
        assert code == 0, err
        assert quiet(out), out
        assert quiet(err), err
    code, out, _ = call(capfd, "report", acting_run, "--plots", "svg")
    assert out == f"{where}{name}/run/report.html\n"


def test_errors_say_names_and_do_not_obey_them(acting, acting_run, tmp_path, capfd):
    nowhere = tmp_path / f"no{NAME}\nfirstsight: all is well"
    for command in (
        ["eval", nowhere],
        ["train", nowhere],
        ["score", acting_run, nowhere],
        ["data", "info", nowhere],
        ["data", "text", "--from", nowhere, "--out", tmp_path / "x"],
        ["study", nowhere],
        ["try", nowhere],
        ["report", nowhere],
    ):
        found = call(capfd, *command)
        assert_refused(found, r"no" + r"x[/foo] [red]\x1b[2J\u202e $\frac a$b$c\nfirstsight: all is well")
        assert quiet(found[2])
    (acting / "bad.txt").write_bytes(b"word\n" * 30 + b"\xff\x1b[2J\n")
    found = call(capfd, "data", "text", "--from", acting / "bad.txt", "--out", tmp_path / "x")
    assert_refused(found, "not UTF-8")
    assert quiet(found[2])


def test_flags_that_would_act_are_shown_too(capfd):
    code, out, err = call(capfd, "train", "data", "--\x1b[2Jx", "\u202e[/foo]")
    assert (code, out) == (2, "")
    assert quiet(err)


def test_labels_that_would_act(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f'word{i % 7} word{i % 5},"{(ACTS[:3] + ACTS[4:])[i % 8]}\nb"\n' for i in range(160)]
    Path("try.csv").write_text("text,label\n" + "".join(rows))
    found = call(capfd, "try", "try.csv", "--label", "\x1b[2Jlabel")
    assert_refused(found, r"\x1b[2Jlabel")
    assert quiet(found[2])
    Path("two.csv").write_text("text,label\n" + "".join(f"word,a\x1b{' ' * (1 + i % 2)}b\n" for i in range(9)))
    found = call(capfd, "try", "two.csv")
    assert_refused(found, r"a\x1b b", r"a\x1b  b")


def test_json_has_the_true_values_and_no_character_that_acts(acting_run, tmp_path, capfd):
    text = tmp_path / "text.txt"
    text.write_text(" ".join(ACTS) + "\ndel\x7f\n")
    code, out, _ = call(capfd, "score", acting_run, text, "--json", "--top", "99")
    assert code == 0
    assert quiet(out)
    assert "naïve" in out
    found = json.loads(out)
    assert set(ACTS) < {row["token"] for row in found["surprising"]}
    assert any(row["before"].endswith("del\x7f") for row in found["surprising"])


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16", "utf-8"])
def test_json_is_json_in_any_encoding(encoding, tmp_path, monkeypatch):
    true = {"a": "naïve 日本 \x1b \x7f \x9b \u202e \udce9 🙂 \U000e0041 ± …"}
    with open(tmp_path / "out", "w", encoding=encoding) as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert output.spoken(lambda: output.show(true, True, lambda _: None)) == 0
    assert json.loads((tmp_path / "out").read_bytes().decode(encoding)) == true


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_small_alphabet_is_no_error(encoding, acting_run, tmp_path, capfd, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text(" ".join(ACTS) + " word1\n")
    with open(tmp_path / "out", "w", encoding=encoding) as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert cli.main(["score", str(acting_run), str(text)]) == 0
        assert out.errors == "strict", "as it was"
    found = (tmp_path / "out").read_bytes().decode(encoding)
    assert r"\x1b[31mred" in found
    assert ("naïve" if encoding == "latin-1" else r"na\xefve") in found
    assert capfd.readouterr().out == ""


def test_the_reader_leaves_and_the_work_goes_on(data, tmp_path):
    run = tmp_path / "run"
    line = f'set -o pipefail; $FS train "$1" --out "$2" {" ".join(TINY)} 2>&1 | head -1'
    code, out, _ = shell(line, data, run)
    assert code == 0
    assert len(out.splitlines()) == 1
    assert_trained(run)


def assert_trained(run: Path) -> None:
    assert json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["step"] == 20
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.pt", "last.pt"}
    assert (run / "result.json").exists()
    assert (run / "report.html").exists()


def test_no_reader_from_the_start(data, tmp_path, monkeypatch):
    for name in ("stdout", "stderr"):
        reads, writes = os.pipe()
        os.close(reads)
        monkeypatch.setattr(sys, name, open(writes, "w", buffering=1))  # noqa: SIM115
    assert cli.main(["train", str(data), "--out", str(tmp_path / "run"), *TINY]) == 0
    assert_trained(tmp_path / "run")
    assert cli.main(["eval", "nowhere"]) == 2
    assert cli.main(["--help"]) == 0


def test_closed_from_the_start(trained, tmp_path):
    """Without a standard output, the first file that is opened would get its number, and what is printed after."""
    run = copy(trained, tmp_path / "run")
    (run / "result.json").unlink()
    code, out, err = shell('$FS eval "$1" <&- >&- 2>&-', run)
    assert (code, out, err) == (0, "", "")
    assert json.loads((run / "result.json").read_text())["split"] == "valid"


def full(name: str, monkeypatch) -> None:
    monkeypatch.setattr(sys, name, open("/dev/full", "w"))  # noqa: SIM115


def test_a_full_disk_behind_standard_output_is_told_when_the_work_is_done(trained, tmp_path, capfd, monkeypatch):
    run = copy(trained, tmp_path / "run")
    for arguments in (["eval", str(run)], ["eval", str(run), "--json"], ["--help"], ["--version"]):
        (run / "result.json").unlink(missing_ok=True)
        full("stdout", monkeypatch)
        assert cli.main(arguments) == 2
        assert sys.stdout.name == "/dev/full", "it is put back"
        assert capfd.readouterr().err == (
            "firstsight: standard output could not be written: No space left on device. The work itself ended, and its "
            "files are whole.\n"
        )
        assert (run / "result.json").exists() == (arguments[0] == "eval")


def test_a_full_disk_behind_standard_error_changes_nothing(trained, capfd, monkeypatch):
    full("stderr", monkeypatch)
    assert cli.main(["report", str(trained)]) == 0
    assert capfd.readouterr().out == f"{trained}/report.html\n"
    full("stderr", monkeypatch)
    assert cli.main(["eval", "nowhere"]) == 2


def test_without_streams_at_all(trained, monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["report", str(trained)]) == 0
    assert cli.main(["report", str(trained / "nowhere")]) == 2
    assert sys.stdout is None


def test_nothing_is_printed_but_by_the_functions_that_escape():
    for path in ROOT.rglob("*.py"):
        if path.name != "output.py":
            assert " print(" not in path.read_text().replace("def print(", ""), path
            assert "Console(" not in path.read_text().replace("PlainConsole(", ""), path


PIPES = {  # the command, and the file in whose place a pipe is: of the run R, the data D, or one of its own
    "tokens": (["train", "D", "--out", "OUT", *TINY], "D/train.tokens"),
    "vocabulary": (["train", "D", "--out", "OUT", *TINY], "D/vocabulary.json"),
    "meta": (["data", "info", "D"], "D/meta.json"),
    "test tokens": (["data", "audit", "D"], "D/test.tokens"),
    "config": (["eval", "R"], "R/config.yaml"),
    "weights": (["eval", "R"], "R/checkpoints/best.pt"),
    "resumed": (["train", "D", "--out", "R", "--resume"], "R/checkpoints/last.pt"),
    "metrics": (["report", "R"], "R/metrics.jsonl"),
    "result": (["report", "R"], "R/result.json"),
    "text": (["score", "R", "P"], "P"),
    "adapted text": (["adapt", "R", "--text", "P"], "P"),
    "tuned": (["eval", "R", "--memory", "cache", "--tuned", "P"], "P"),
    "settings": (["train", "D", "--out", "OUT", "--config", "P"], "P"),
    "recipe": (["study", "P", "--out", "OUT"], "P"),
    "grid": (["sweep", "lm", "D", "--grid", "P", "--out", "OUT"], "P"),
    "sweep": (["sweep", "show", "R"], "R/sweep.json"),
    "books": (["data", "gutenberg", "--from", "P", "--out", "OUT"], "P"),
    "archive": (["data", "wikitext-2", "--from", "P", "--out", "OUT"], "P"),
    "plain text": (["data", "text", "--from", "P", "--out", "OUT"], "P"),
    "vectors": (["try", "P.npz", "--out", "OUT"], "P.npz"),
    "table": (["try", "P.csv", "--out", "OUT"], "P.csv"),
}


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device"])
@pytest.mark.parametrize("case", PIPES)
@pytest.mark.timeout(20, func_only=True)
def test_a_pipe_where_a_file_is_expected_is_refused_and_not_waited_for(case, kind, data, trained, tmp_path, capfd):
    arguments, place = PIPES[case]
    places = {"D": tmp_path / "data", "R": tmp_path / "run", "OUT": tmp_path / "out", "P": tmp_path / "p"}
    if kind == "a folder" and case in ("books", "archive", "plain text"):
        pytest.skip("they take folders too")
    copy(data, places["D"])
    copy(trained, places["R"])
    path = tmp_path / place.replace("D/", "data/").replace("R/", "run/").replace("P", "p")
    path.unlink(missing_ok=True)
    if kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    words = [str(places.get(word, word)).replace("P.", f"{tmp_path}/p.") for word in arguments]
    found = call(capfd, *words)
    assert_refused(found, str(path), kind)
    assert not places["OUT"].exists() or not any(path.is_file() for path in places["OUT"].rglob("*"))


NOT_UTF8 = [
    ["train", "B/data", "--out", "B/run", *TINY, "--logger=csv"],
    ["train", "B/data", "--config", "B/run/config.yaml", "--out", "B/run", "--resume"],
    ["eval", "B/run", "--memory", "cache", "--json"],
    ["score", "B/run", "B/text.txt"],
    ["adapt", "B/run", "--text", "B/text.txt"],
    ["report", "B/run", "--out", "B/page", "--csv", "--plots=svg"],
    ["data", "info", "B/data"],
    ["data", "audit", "B/data"],
]


def test_a_path_that_is_no_utf8(tmp_path, capfd):
    """What a folder of another age is called is kept, as an escape where a file is text."""
    folder = tmp_path / BYTES
    folder.mkdir()
    write_text(folder / "text.txt")
    shutil.copy(folder / "text.txt", folder / f"{BYTES}.txt")
    code, _, err = call(capfd, "data", "text", "--from", folder / f"{BYTES}.txt", "--out", folder / "data")
    assert code == 0, err
    for arguments in NOT_UTF8:
        code, out, err = call(capfd, *(word.replace("B/", f"{folder}/") for word in arguments))
        assert code == 0, (arguments, err)
        assert quiet(out)
        assert quiet(err)
    meta = json.loads((folder / "data/meta.json").read_text())
    assert meta["sources"][0]["name"] == f"{BYTES}.txt"
    assert r"caf\udce9" in (folder / "data/meta.json").read_text()
    assert r"caf\udce9" in (folder / "run/report.html").read_text()


def test_what_cannot_take_such_a_path_says_so_before_any_work(data, tmp_path, capfd):
    folder = tmp_path / BYTES
    found = call(capfd, "train", data, "--out", folder / "run", *TINY, "--logger=tensorboard")
    assert_refused(found, r"caf\udce9/run", "not UTF-8", "take the logger csv")
    grid = tmp_path / "grid.yaml"
    grid.write_text("base: {embedding: 16, hidden: 16, steps: 4}\ngrid: {lr: [0.01, 0.02]}\n")
    found = call(capfd, "sweep", "lm", data, "--grid", grid, "--out", folder / "sweep")
    assert_refused(found, r"caf\udce9/sweep/sweep.db", "no UTF-8", "--storage")
    found = call(capfd, "sweep", "lm", data, "--grid", grid, "--out", tmp_path / "sweep", "--study", BYTES)
    assert_refused(found, "the study caf", "--study")
    assert not [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
