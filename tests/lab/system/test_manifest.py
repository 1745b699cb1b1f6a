import json
import os
from functools import partial

import pytest
from deaths import killed_at
from hypothesis import given, settings
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.system import manifest
from firstsight.lab.system.files import write_json
from firstsight.lab.system.folder import DATA, RUN, hold
from firstsight.lab.system.manifest import DIGESTS, accept, check_file, check_there, fits, is_listed, listed, sha256


@pytest.fixture
def run(tmp_path):
    out = tmp_path / "run"
    with hold(out, RUN):
        write_json(out / "config.json", {"seed": 0})
        write_json(out / "checkpoints" / "best.json", [1, 2])
    return out


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_every_flipped_bit_of_a_file_and_of_the_manifest_is_named(tmp_path_factory, at, bit):
    out = tmp_path_factory.mktemp("run")
    with hold(out, RUN):
        write_json(out / "a.json", {"seed": 0})
    for name in ("a.json", DIGESTS):
        content = bytearray((out / name).read_bytes())
        content[at % len(content)] ^= 1 << bit
        whole, _ = (out / name).read_bytes(), (out / name).write_bytes(content)
        told = ""
        try:
            check_file(out / "a.json")
        except InputError as error:
            told = str(error)
        if told:
            assert str(out / name) in told
            assert "firstsight accept" in told
        else:
            assert name == DIGESTS
            assert json.loads(content) == json.loads(whole), "white space may change"
        (out / name).write_bytes(whole)


def test_a_swapped_file_is_named_and_an_edit_can_be_accepted(run):
    path = run / "checkpoints" / "best.json"
    path.write_text((run / "config.json").read_text())
    with pytest.raises(InputError, match=f"^{path}: this is not the file that was written here.*accept {run}$"):
        check_file(path)
    (run / "config.json").unlink()
    assert accept(run) == {"changed": ["checkpoints/best.json"], "missing": ["config.json"]}
    check_file(path)
    assert set(listed(run)) == {"checkpoints/best.json"}
    assert accept(run) == {"changed": [], "missing": []}


def test_files_of_others_are_not_checked(run, tmp_path):
    (run / "notes.json").write_text("{}")
    assert not is_listed(run / "notes.json")
    assert fits(run / "notes.json", "anything")
    (tmp_path / "x.json").write_text("{}")
    check_file(tmp_path / "x.json")
    with pytest.raises(InputError, match="nothing to accept"):
        accept(tmp_path)


def test_a_damaged_manifest_can_be_made_anew(run):
    (run / DIGESTS).write_text('{"kind": "run", "files": 3}')
    with pytest.raises(InputError, match=DIGESTS):
        check_file(run / "config.json")
    accept(run)
    assert manifest.kind_of(run) == RUN
    check_file(run / "config.json")
    assert set(listed(run)) == {"config.json", "checkpoints/best.json"}


def test_a_file_that_is_gone_is_told_from_one_that_never_was(run):
    check_there(run / "last.json", run / "config.json")
    (run / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: this file was written and is gone"):
        check_there(run / "last.json", run / "config.json")


def test_the_innermost_held_folder_notes_a_file(tmp_path):
    with hold(tmp_path, DATA), hold(tmp_path / "inner", RUN):
        write_json(tmp_path / "inner" / "a.json", 1)
        write_json(tmp_path / "b.json", 1)
        write_json(tmp_path / ".hidden" / "c.json", 1)
    write_json(tmp_path / "d.json", 1)
    assert set(listed(tmp_path)) == {"b.json"}
    assert set(listed(tmp_path / "inner")) == {"a.json"}


def test_whatever_moment_a_writer_is_killed_at_its_file_fits(tmp_path):
    """At each call that the system gets while a file is replaced."""
    functions = [(os, name) for name in ("replace", "open", "fsync", "fchmod")]

    def write(number):
        with hold(tmp_path, RUN):
            write_json(tmp_path / "a.json", {"number": number})

    for calls in range(40):
        killed_at(calls, functions, partial(write, calls))
        if (tmp_path / "a.json").exists():
            check_file(tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == {"number": 39}
    with hold(tmp_path, RUN):
        write_json(tmp_path / "a.json", 1)
    assert listed(tmp_path) == {"a.json": sha256(tmp_path / "a.json")}
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", DIGESTS}


def test_a_file_that_a_kill_kept_from_its_name_was_never_there(tmp_path):
    """Noted, and the process killed before the file was there: the same command begins, and nothing counts as lost."""
    functions, whole = [(os, "replace")], 0
    for calls in range(6):
        folder = tmp_path / str(calls)

        def write(folder=folder):
            with hold(folder, RUN):
                write_json(folder / "a.json", 1)

        killed_at(calls, functions, write)
        whole += (folder / "a.json").exists()
        if not (folder / "a.json").exists():
            assert not is_listed(folder / "a.json")
            check_there(folder / "a.json")
        else:
            check_file(folder / "a.json")
        write()
        assert is_listed(folder / "a.json")
    assert 0 < whole < 6
