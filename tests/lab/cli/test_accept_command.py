import json

from firstsight.lab.cli import main
from firstsight.lab.system.files import write_json
from firstsight.lab.system.folder import RUN, hold
from firstsight.lab.system.manifest import DIGESTS, check_file


def test_an_edit_is_accepted(tmp_path, capfd):
    with hold(tmp_path, RUN):
        write_json(tmp_path / "a.json", 1)
        write_json(tmp_path / "b.json", 2)
    (tmp_path / "a.json").write_text("[1, 2]")
    (tmp_path / "b.json").unlink()
    assert main(["accept", str(tmp_path), "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == {"folder": str(tmp_path), "changed": ["a.json"], "missing": ["b.json"]}
    check_file(tmp_path / "a.json")
    assert main(["accept", str(tmp_path)]) == 0
    assert capfd.readouterr().out == "every file is as it was written\n"


def test_a_damaged_manifest_is_made_anew(tmp_path, capfd):
    with hold(tmp_path, RUN):
        write_json(tmp_path / "a.json", 1)
    (tmp_path / DIGESTS).write_bytes(b"\xff")
    assert main(["accept", str(tmp_path)]) == 0
    assert capfd.readouterr().out == "taken as it is: a.json\n"
    check_file(tmp_path / "a.json")


def test_nothing_to_accept(tmp_path, capfd):
    assert main(["accept", str(tmp_path)]) == 2
    assert main(["accept", str(tmp_path / "none")]) == 2
    said = capfd.readouterr().err
    assert f"{tmp_path / DIGESTS}: there is no such file" in said
    assert f"{tmp_path / 'none'}: there is no such" in said
