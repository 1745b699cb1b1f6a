"""What torchrun sets, where it is not what torchrun sets."""

import pytest
from command import write_text

from firstsight.errors import InputError
from firstsight.lab import cli
from firstsight.lab.system import job

SET = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "2", "LOCAL_RANK": "1", "GROUP_WORLD_SIZE": "1"}
SET |= {"GROUP_RANK": "0", "MASTER_PORT": "29500", "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True"}


@pytest.fixture
def launched(monkeypatch):
    for name, value in SET.items():
        monkeypatch.setenv(name, value)
    assert (job.launched(), job.rank(), job.world_size(), job.local_world_size()) == (True, 1, 2, 2)
    job.check_launcher()
    return monkeypatch


@pytest.mark.parametrize("name", [name for name in SET if not name.startswith("TORCHELASTIC")])
@pytest.mark.parametrize("value", ["abc", "", "-1", "1.0", "\u0663", "9" * 5000, None])
def test_a_variable_that_is_no_number_is_named(launched, name, value):
    launched.delenv(name) if value is None else launched.setenv(name, value)
    if (name, value) == ("WORLD_SIZE", None):
        assert not job.launched(), "this is one process"
        return
    with pytest.raises(
        InputError, match=rf"variable {name} is .*expected a whole number, . or more\. torchrun sets it"
    ):
        job.launched()


@pytest.mark.parametrize(
    ("name", "value", "of"),
    [("RANK", "2", "WORLD_SIZE"), ("LOCAL_RANK", "7", "LOCAL_WORLD_SIZE"), ("GROUP_RANK", "1", "GROUP_WORLD_SIZE")],
)
def test_variables_that_contradict_each_other_are_named(launched, name, value, of):
    launched.setenv(name, value)
    with pytest.raises(
        InputError, match=rf"variables {name} and {of} are {value} and {SET[of]}; expected {name} .* below"
    ):
        job.launched()


@pytest.mark.parametrize("change", [{"LOCAL_RANK": "0"}, {"LOCAL_WORLD_SIZE": "3"}])
def test_an_uneven_job_is_refused(launched, change):
    for name, value in change.items():
        launched.setenv(name, value)
    with pytest.raises(InputError, match="expected as many on each machine"):
        job.check_launcher()


@pytest.mark.parametrize("torchrun", [False, True])
def test_the_command_says_so_in_one_sentence(torchrun, tmp_path, monkeypatch, capsys):
    data = tmp_path / "data"
    cli.main(["data", "text", "--from", str(write_text(tmp_path / "text.txt")), "--out", str(data)])
    capsys.readouterr()
    monkeypatch.setenv("WORLD_SIZE", "abc")
    if torchrun:
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    assert cli.main(["train", str(data), "--out", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("firstsight: the environment variable WORLD_SIZE is 'abc'; expected a whole number")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()
