"""What anyone may have put into a file: it is read as it was written, or refused by an error that names it."""

import json
import os

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.system.files import naming, parse_json, read_json, read_yaml, write_json
from firstsight.lab.system.shape import TEXT, WHOLE

BAD_JSON = {
    "deep": b"[" * 100_000,
    "deeper than ours": b"[" * 40 + b"]" * 40,
    "many digits": b"9" * 5000,
    "more than 64 bits": b"1" * 40,
    "past a float": b"[1e999]",
    "NaN": b'{"a": NaN}',
    "Infinity": b"-Infinity",
    "twice": b'{"a": 1, "b": {"c": 1, "c": 2}}',
    "empty": b"",
    "cut": b'{"a": 1',
    "two": b"1 2",
    "Latin-1": '"é"'.encode("latin-1"),
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "BOM": b"\xef\xbb\xbf{}",
    "half a pair": b'"\\ud800"',
    "zeros": bytes(100),
}
BAD_YAML = {
    "no number": b"a: 0x_",
    "no boolean": b"a: !!bool x",
    "no integer": b"a: !!int ''",
    "no float": b"a: !!float x",
    "alias": b"a: &x [1]\nb: *x",
    "itself": b"&x [*x]",
    "two documents": b"a: 1\n---\nb: 2",
    "twice": b"a: 1\na: 2",
    "an object": b"!!python/object/apply:os.system [x]",
    "tag": b"a: !mine x",
    "set": b"a: !!set {b}",
    "binary": b"a: !!binary x",
    "date": b"a: !!timestamp 2020-01-01",
    "list as name": b"? [1]\n: 2",
    "not finite": b"a: .inf",
    "not a number": b"a: .nan",
    "many digits": b"a: " + b"9" * 5000,
    "sixties": b"a: " + b"59:" * 30_000 + b"1",
    "more than 64 bits": b"a: 0x" + b"f" * 30,
    "deep": b"[" * 10_000,
    "deep lists": b"- " * 5000,
    "cut": b"a: [1",
    "tab": b"a:\tb: c",
    "Latin-1": "a: é".encode("latin-1"),
    "half a pair": b'a: "\\ud800"',
    "NUL": b"a: \0",
    "huge": b"a: " + b"x" * 300_000,
}
BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{one}: &{one} [{', '.join([f'*{before}'] * 10)}]\n" for before, one in zip("abcdefgh", "bcdefghi", strict=True)
)
WORDS = st.text(st.characters(exclude_categories=["Cs"]))
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner),
    max_leaves=12,
)  # fmt: skip


@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_is_none_of_ours_is_refused(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: this should be the numbers of a figure .*Make it anew") as found:
        read_json(path, "the numbers of a figure")
    assert len(str(found.value)) < 400 + len(str(path))


@pytest.mark.parametrize("content", [*BAD_YAML.values(), BOMB.encode()], ids=[*BAD_YAML, "bomb"])
def test_yaml_that_is_none_of_ours_is_refused(content, tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.yaml: this should be the settings of a run") as found:
        read_yaml(path, "the settings of a run")
    assert len(str(found.value)) < 500 + len(str(path))


def test_what_yaml_takes_for_a_date_is_text(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes("\ufeffa: 2023-99-99\nb: 2020-01-01\nc: 0.1\nd: [1, yes, null]\n<<: {e: =}\n".encode())
    found = {"a": "2023-99-99", "b": "2020-01-01", "c": 0.1, "d": [1, True, None], "<<": {"e": "="}}
    assert read_yaml(path, "a recipe") == found


@given(PLAIN)
def test_what_is_written_comes_back(value):
    assert parse_json(json.dumps(value), "a.json", "values") == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode(), "a.json", "values") == value


@given(PLAIN)
def test_yaml_comes_back(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "plain.yaml"
    path.write_text(yaml.safe_dump(value, allow_unicode=False), encoding="utf-8")
    assert read_yaml(path, "values") == value


@given(st.binary(max_size=60) | st.text("{}[]:,&*!-?\"'|>#%@ \n\t0123.eax_~=<", max_size=60).map(str.encode))
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(content)
    for read in (read_json, read_yaml):
        try:
            read(path, "values")
        except InputError as error:
            assert str(path) in str(error)  # noqa: PT017


def test_what_is_no_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, said in (("pipe", "this is a pipe"), ("folder", "this is a folder"), ("none", "there is no such file")):
        for read in (read_json, read_yaml):
            with pytest.raises(InputError, match=rf"{name}: {said}.*the settings of a run"):
                read(tmp_path / name, "the settings of a run")


def test_a_file_of_another_shape_says_what_is_wrong_in_it(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"name": "x", "rows": [{"n": 1}, {"n": "y" * 10_000}]})
    with pytest.raises(
        InputError, match=r"a\.json: rows\[1\]\.n is 'yyy.*expected a whole number.*\. Mend it\.$"
    ) as found:
        read_json(path, "rows", {"name": TEXT, "rows": [{"n": WHOLE}]}, "Mend it.")
    assert len(str(found.value)) < 200 + len(str(path))


def test_whatever_goes_wrong_while_a_file_is_used_names_it(tmp_path):
    for wrong in (lambda: {}["a"], lambda: [][0], lambda: None.b, lambda: 1 / 0, lambda: int("x"), lambda: len(3)):
        said = r"^a\.json: this should be a plan, but something in it .*\. Mend it\.$"
        with pytest.raises(InputError, match=said), naming("a.json", "a plan", "Mend it."):
            wrong()
    with pytest.raises(InputError, match=r"^a\.json: lr is 3$"), naming("a.json", "a plan"):
        raise InputError("lr is 3")
    with pytest.raises(InputError, match=r"^in a\.json lr is 3$"), naming("a.json", "a plan"):
        raise InputError("in a.json lr is 3")
