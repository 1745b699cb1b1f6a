import csv
import io
import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.classify.data import tables
from firstsight.lab.classify.data.tables import Table, read_table


def read(path: Path, **options) -> Table:
    return read_table(path, **{"text": None, "label": None, "split": None, "max_rows": 1000, **options})


def written(folder: Path, content: str | bytes, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@given(rows=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=12), mark=st.booleans())
def test_any_csv_comes_back(rows, mark, tmp_path_factory):
    text = io.StringIO(newline="")
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([("text", "label"), *rows])
    path = written(tmp_path_factory.mktemp("csv"), ("\ufeff" if mark else "") + text.getvalue())
    kept = [row for row in rows if row[0].strip() and row[1].strip()]
    if not kept:
        with pytest.raises(InputError, match="no row with a text and a label"):
            read(path)
        return
    table = read(path)
    assert list(zip(table.texts, table.labels, strict=True)) == kept
    assert table.counts["of_file"] == len(rows)
    assert sum(table.counts.values()) - 2 * len(rows) == -len(kept)


def test_jsonl_and_tsv(tmp_path):
    rows = [{"text": 'a "b"\n', "label": 3}, {"text": "c\td", "label": 4.0}, {"text": None, "label": "x"}]
    table = read(written(tmp_path, "\n".join(map(json.dumps, rows)) + "\n\n", "rows.jsonl"))
    assert (table.texts, table.labels) == (['a "b"\n', "c\td"], ["3", "4"])
    assert table.counts == {"of_file": 3, "empty_text": 1, "no_label": 0}
    table = read(written(tmp_path, 'text\tlabel\n"a\tb"\tx\nc, d\ty\n', "rows.tsv"))
    assert (table.texts, table.labels) == (["a\tb", "c, d"], ["x", "y"])


def test_other_delimiter_is_noted(tmp_path):
    table = read(written(tmp_path, "text;label\na, b;x\n"))
    assert table.texts == ["a, b"]
    assert "parted by ';'" in " ".join(table.notes)


@pytest.mark.parametrize(
    ("columns", "options", "text", "label"),
    [
        ("text,label", {}, 0, 1),
        ("label,text", {}, 1, 0),
        ("id,label,text", {}, 2, 1),
        ("body,kind", {}, 0, 1),
        ("class,body", {}, 1, 0),
        ("a,b", {"label": "a"}, 1, 0),
        ("a,b", {"text": "b"}, 1, 0),
        ("a,b,c", {"text": "c", "label": "a"}, 2, 0),
    ],
)
def test_columns(tmp_path, columns, options, text, label):
    table = read(
        written(tmp_path, f"{columns}\nzero,one,two\n".replace(",two", ",two" * (columns.count(",") == 2))), **options
    )
    assert (table.texts, table.labels) == ([["zero", "one", "two"][text]], [["zero", "one", "two"][label]])
    assert any("Taken from the names" in note for note in table.notes) == (len(options) < 2)


def test_the_user_s_split(tmp_path):
    rows = "".join(f"t{i},x,{word}\n" for i, word in enumerate(["train", "dev", " Test ", "val", "VALIDATION"]))
    path = written(tmp_path, f"text,label,split\n{rows}")
    assert read(path, split="split").part == ["train", "valid", "test", "valid", "valid"]
    unused = read(path)
    assert unused.part is None
    assert "--split split" in " ".join(unused.notes)
    with pytest.raises(InputError, match="line 2: the split column says 'x'; expected train, valid"):
        read(path, split="label", label="split")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "", "this file is empty"),
        ("a.csv", "text,label\n", "no row with a text and a label"),
        ("a.csv", "a,b,c\n1,2,3\n", "which column holds the texts .* and the labels"),
        ("a.csv", "text,x,y\n1,2,3\n", r"which column holds the labels \(--label\)\? The columns, .* 'text', 'x', 'y'"),
        ("a.csv", "text,text\n1,2\n", "which column holds"),
        ("a.csv", "text,label\na,b\nc\n", "row on line 3 has 1 columns, and the first line names 2"),
        ("a.csv", 'text,label\n"a\nb",c\nd,e,f\n', "row on line 4 has 3"),
        ("a.csv", 'text,label\na,b\n"c"d,e\n', "line 3 is broken"),
        ("a.csv", 'text,label\n"a,b\n' + "c" * 140_000, "line 2 has a field of more than 131,072"),
        ("a.csv", 'text,label\n"a,b\n', "line 2 is broken"),
        ("a.csv", "text,label\nà,b\n".encode("latin1"), r"line 2 is not UTF-8 \(byte 0xe0 at position 11 .*iconv"),
        ("a.csv", "text,label\na,b\n".encode("utf-16"), "looks like UTF-16. .*iconv -f UTF-16 -t"),
        ("a.tsv", "text\tlabel\na\tb\n".encode("utf-16-le"), "looks like UTF-16LE. .*iconv -f UTF-16LE -t"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n'.encode("utf-32-be"), "looks like UTF-32BE. .*iconv -f UTF-32BE -t"),
        ("a.csv", "text,label\n" + "a,b\n" * 40 + "c\0,d\n", r"line 42 holds a NUL \(byte 0x00 at position 172"),
        ("a.jsonl", "\n\n", "only blank lines"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"\n', "line 2 is not JSON"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n\n["a"]\n', "line 3 holds list, not an object"),
        ("a.jsonl", '{"text": "a", "label": "b"}\n{"text": "a"}\n', "line 2 has no 'label'"),
        ("a.jsonl", '{"text": "a", "label": ["b", "c"]}\n', "line 1: 'label' is a list. Expected one label an example"),
        ("a.jsonl", '{"text": "a", "label": 0.5}\n', "line 1: 'label' is 0.5. Expected text or a whole number"),
        ("a.jsonl", '{"text": "a", "label": NaN}\n', "'label' is nan"),
        ("a.jsonl", "[" * 100_000, "line 1 is not JSON"),
    ],
)
def test_bad_files(tmp_path, name, content, says):
    with pytest.raises(InputError, match=says) as told:
        read(written(tmp_path, content, name))
    assert str(tmp_path / name) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("options", [{"text": "none"}, {"label": "none"}, {"split": "none"}])
def test_no_such_column(tmp_path, options):
    path = written(tmp_path, "text,label\na,b\n")
    with pytest.raises(InputError, match=r"there is no column 'none' \(--\w+\); the columns, .* are 'text', 'label'"):
        read(path, **options)
    with pytest.raises(InputError, match="expected different ones"):
        read(path, text="text", label="text")


def test_a_sample_is_uniform_in_order_and_said(tmp_path):
    path = written(tmp_path, "text,label\n" + "".join(f"{i},l{i % 7}\n" for i in range(20_000)))
    table = read(path, max_rows=2000)
    rows = np.array(list(map(int, table.texts)))
    assert len(rows) == 2000
    assert (np.diff(rows) > 0).all()
    assert table.labels == [f"l{i % 7}" for i in rows]
    tenths = np.histogram(rows, 10, (0, 20_000))[0]
    assert abs(tenths - 200).max() < 60  # four standard deviations
    assert table.counts["of_file"] == 20_000
    assert table.all_labels is not None
    assert sum(table.all_labels.values()) == 20_000
    assert [note for note in table.notes if note.startswith("A SAMPLE: 2,000 of the file's 20,000 rows")]
    assert read(path, max_rows=2000).texts == table.texts


def test_a_sample_of_long_texts_is_bounded_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_BYTES", 100_000)
    path = written(tmp_path, "text,label\n" + "".join(f"{'x' * 1000}{i},l\n" for i in range(1000)))
    table = read(path)
    assert 80 < len(table.texts) < 100
    assert [note for note in table.notes if "A SAMPLE" in note]


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "MOST_LABELS", 500)

    def peak(rows: int) -> int:
        path = written(tmp_path, "text,label\n" + "".join(f"{i:0200d},l{i}\n" for i in range(rows)))
        tracemalloc.start()
        table = read(path, max_rows=300)
        top = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(table.texts) == 300
        assert table.all_labels is None
        return top

    peak(1000)  # what is imported once
    small, large = peak(4000), peak(40_000)
    assert large < 1.2 * small + 50_000


def test_lines_of_an_old_mac(tmp_path):
    assert read(written(tmp_path, 'text,label\ra,b\r"c\rd",e\r')).texts == ["a", "c\rd"]
    assert read(written(tmp_path, 'text,label\r\na,b\r\n"c\r\nd",e\r\n')).texts == ["a", "c\r\nd"]
