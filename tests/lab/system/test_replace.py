import os
import shutil
from functools import partial

import pytest
from deaths import killed_at

from firstsight.lab.system import replace
from firstsight.lab.system.files import write_json
from firstsight.lab.system.folder import DATA, hold
from firstsight.lab.system.manifest import DIGESTS, check_file, listed
from firstsight.lab.system.replace import finish_replacing, replacing


def make(folder, number, more=""):
    with replacing(folder, DATA, ["old.json"]) as new:
        write_json(new / "meta.json", number)
        write_json(new / "train.json", number)
        if more:
            write_json(new / more, number)


def test_what_was_there_goes_with_all_that_was_made_of_it(tmp_path):
    (tmp_path / "old.json").write_text("without a manifest")
    (tmp_path / "mine.txt").write_text("the user's own")
    make(tmp_path, 1, "train.documents.json")
    with hold(tmp_path, DATA):
        write_json(tmp_path / "plots" / "zipf.json", 1)
    make(tmp_path, 2)
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {"meta.json", "train.json", "mine.txt", DIGESTS}
    assert set(listed(tmp_path)) == {"meta.json", "train.json"}
    check_file(tmp_path / "train.json")


def test_a_failure_leaves_the_old_one(tmp_path):
    make(tmp_path, 1, "more.json")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        make(tmp_path, {1})  # which JSON has not
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_killed_at_any_moment_it_is_the_old_one_or_the_new_one_whole(tmp_path, monkeypatch):
    seen = set()
    for calls in range(16):
        out = tmp_path / str(calls)
        make(out, 1, "more.json")
        killed_at(calls, [(os, "replace"), (shutil, "rmtree")], partial(make, out, 2))
        finish_replacing(out, DATA)
        number = int((out / "meta.json").read_text())
        assert (out / "train.json").read_text() == (out / "meta.json").read_text()
        assert (out / "more.json").exists() == (number == 1)
        check_file(out / "train.json")
        seen.add(number)
        make(out, 3)
        assert not (out / replace.NEW).exists()
        assert not (out / replace.READY).exists()
    assert seen == {1, 2}
