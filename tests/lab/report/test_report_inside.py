"""The page to look inside: its numbers are the file's, it stands alone, it stays small."""

import html
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from passages import NASTY, SEEN, make_passage, record_of

from firstsight.lab.reading.memories import MEMORIES
from firstsight.lab.report.passage import draw_passage

FIVE = {name: {"size": 10_000, "weight": 0.1} for name in ("cache", "mbpa", "unbounded", "knn", "dynamic")}
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Checks that tags match; what the elements of a page hold."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.tokens, self.text = [], set(), [], [], [], ""

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert len(values) == len(attributes), attributes
        assert not any(name.startswith("on") for name in values)
        self.tags.add(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("href", "src") if name in values]
        if tag not in VOID:
            self.open.append(tag)
        if values.get("class", "").split(" ")[0] == "t":
            self.tokens.append([values["class"], ""])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "span" and self.tokens:
            self.tokens[-1][1] = self.tokens[-1][1] or data
        if "script" not in self.open and "style" not in self.open:
            self.text += data


def draw(folder, passage):
    (folder / "passage.json").write_text(json.dumps(passage), encoding="utf-8")
    assert draw_passage(record_of(folder, passage), folder)
    return (folder / "passage.html").read_text(encoding="utf-8")


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def held(page):
    return json.loads(re.search(r'<script type="application/json" id=data>(.*?)</script>', page, re.DOTALL).group(1))


def test_the_page_holds_the_numbers_of_the_file(tmp_path):
    passage = make_passage(stored=True)
    data = held(draw(tmp_path, passage))
    words = [SEEN if word == NASTY else word for word in passage["words"].values()]
    assert data["words"] == words
    assert data["tokens"] == passage["tokens"]
    assert (data["first"], data["before"]) == (passage["first"], 6)
    for name in ("model", "cache", "mbpa"):
        assert data["nll"][name] == [None if x is None else pytest.approx(x, rel=5e-6) for x in passage["nll"][name]]
        flat = [[x for row in token for x in row] for token in passage["guesses"][name]]
        assert data["guesses"][name] == [pytest.approx(row, rel=5e-6) for row in flat]
    for name in ("all", "cache", "mbpa"):
        assert data["gain"][name] == pytest.approx(passage["gain"][name], rel=5e-6)
    for name in ("cache", "mbpa"):
        for got, token in zip(data["pairs"][name], passage["neighbours"][name], strict=True):
            assert got == pytest.approx([x for row in token for x in row], rel=5e-6)
            assert got[::4] == [row[0] for row in token], "places are whole"
    assert data["contexts"] == passage["contexts"]
    assert data["views"] == [
        ["all", "both", {"cache": 0.1, "mbpa": 0.04}],
        *([n, MEMORIES[n].label, {n: w}] for n, w in (("cache", 0.1), ("mbpa", 0.04))),
    ]
    assert data["memories"] == [["cache", "cache", False], ["mbpa", "MbPA", True]]


def test_the_passage_is_there_without_the_script(tmp_path):
    passage = make_passage()
    reader = read(draw(tmp_path, passage))
    shown = ["the", "<unk>", "¶", SEEN, "Ärger", "it's"]
    assert [text for _, text in reader.tokens] == [shown[index] for index in passage["tokens"]]
    for (kind, _), gain in zip(reader.tokens, passage["gain"]["all"], strict=True):
        step = sum(abs(gain) >= edge for edge in (0.03, 0.1, 0.3, 1.0, 3.0))
        name = f"gain-{step}" if gain > 0 else f"loss-{min(step, 3)}"
        assert kind == (f"t {name}" if step else "t")
    assert "switched off" in reader.text
    assert "The largest gains: the +5.000" in reader.text
    assert "these are 8.12 long on average here, and two tokens of the passage 11.50 apart" in reader.text


def test_the_tables_of_classes(tmp_path):
    passage = make_passage()
    text = html.unescape(re.sub("<[^>]*>", "|", draw(tmp_path, passage)).replace("|", " "))
    text = " ".join(text.split())
    assert "The 6 words whose first occurrence in the training text of 1,000 tokens came last" in text
    assert "the 1,000 99.90% 0 1.50 1.25 (<100) 0 <unk> 999 99.80% 1,200 1.50 1.25 (<100) 4 6.50 5.25" in text
    assert "3 classes are not in the training text at all" in text
    assert "(rule whitened, gamma 0.1). Written were tokens 10 to 17,746 of the test split" in text
    assert "They are of 2 documents" in text
    assert "the 125.0% 1 30 0 <unk> 62.5% 2 30 1 6.50 5.25 −1.250" in text
    passage["moved"] = {"why": "It <b> does not."}
    page = draw(tmp_path, passage)
    assert "It &lt;b&gt; does not.</p>\n</section>" in page


def test_the_page_is_safe_and_alone(tmp_path):
    page = draw(tmp_path, make_passage())
    reader = read(page)
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[:2] for link in reader.links} <= {"#t", "#p"}
    assert all(link[1:] in reader.ids for link in reader.links)
    assert page.count("<script") == page.count("</script") == 2
    assert "<b onclick" not in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    for word in ("http:", "https:", "url(", "@import", "import(", "fetch", "innerHTML", "eval("):
        assert word not in page


@pytest.mark.parametrize("name", ["cache", "mbpa"])
def test_one_memory_needs_no_switch(tmp_path, name):
    data = held(draw(tmp_path, make_passage(**{name: {"size": 9, "weight": 0.05}})))
    assert [view for view, *_ in data["views"]] == [name]


def test_2000_tokens_with_five_memories_and_long_words_stay_small(tmp_path, monkeypatch):
    for name in FIVE:
        monkeypatch.setitem(MEMORIES, name, MEMORIES["mbpa"])
    words = [f"{i:05d}" + "Donaudampfschifffahrtsgesellschaft" * 2 for i in range(12_000)]
    passage = make_passage(2000, words, stored=True, **FIVE)
    passage["latest"]["classes"], passage["moved"]["classes"] = [], []
    for name in FIVE:  # three pairs and three guesses everywhere, each context somewhere else
        rows = [
            [[(7 * i + 2003 * j) % 300_000, i * (j + 1) % 12_000, 0.123456, 12.3456] for j in range(3)]
            for i in range(2000)
        ]
        passage["neighbours"][name] = rows
        passage["guesses"][name] = [[[i * (j + 3) % 12_000, 0.123456] for j in range(3)] for i in range(2000)]
    runs = [[begin, [(begin + j) % 12_000 for j in range(7)]] for begin in range(0, 300_000, 14)]
    passage["contexts"] = {"text": runs, "train": runs}
    assert len(draw(tmp_path, passage).encode()) < 5_000_000


def test_what_the_page_is_made_of_has_a_style(tmp_path):
    page = draw(tmp_path, make_passage())
    style, body = page.split("</style>")
    script = files("firstsight.lab.report.passage").joinpath("page.js").read_text(encoding="utf-8")
    made = set(re.findall(r'element\("\w+", (?:right \? )?"([a-z]+)', script))
    given = re.findall(r"""class=(?:"([^"]*)"|'([^']*)'|([\w-]+))""", body)
    classes = {name for values in given for value in values for name in value.split()} | made
    assert {"look", "panel", "votes", "pair", "guess", "number", "right"} <= classes
    assert not {name for name in classes if not re.search(rf"\.{name}\b", style)}
