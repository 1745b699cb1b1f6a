"""The passage on the page: colours, notes and numbers, well formed and without a script."""

import dataclasses
import html
import json
import math
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from passages import FIRST, NASTY, SEEN, make_passage, record_of

from firstsight.errors import InputError
from firstsight.lab.reading.memories import MEMORIES
from firstsight.lab.report.passage import draw_passage, passage_style
from firstsight.lab.report.passage.opened import LOST, STEPS

VOID = {"input", "br"}


def section_of(folder, passage):
    (folder / "passage.json").write_text(json.dumps(passage), encoding="utf-8")
    return draw_passage(record_of(folder, passage), folder)


class Reader(HTMLParser):
    """Checks that tags match, and collects each token: its style, its own text, its note's text."""

    def __init__(self):
        super().__init__()
        self.open, self.tokens, self.ids, self.tags, self.classes = [], [], [], set(), set()

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        assert len(values) == len(attributes), attributes
        self.tags.add(tag)
        self.classes |= set(values.get("class", "").split())
        self.ids += [values["id"]] if "id" in values else []
        if tag not in VOID:
            self.open.append((tag, values.get("class")))
        if values.get("class") == "t":
            assert values["tabindex"] == "0"
            self.tokens.append({"style": values.get("style", ""), "text": "", "note": ""})

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        classes = [name for _, name in self.open]
        if "t" in classes:
            self.tokens[-1]["note" if "n" in classes else "text"] += data


def read(page):
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert not reader.open
    return reader


def test_every_token_has_its_colour_and_its_note(tmp_path):
    passage = make_passage()
    reader = read(section_of(tmp_path, passage))
    words = {**passage["words"], "3": SEEN}
    held = dict(enumerate(passage["contexts"]["text"][0][1], passage["contexts"]["text"][0][0]))
    assert len(reader.tokens) == len(passage["tokens"])
    for i, (shown, index) in enumerate(zip(reader.tokens, passage["tokens"], strict=True)):
        assert shown["text"] == ("¶" if index == 2 else words[str(index)])
        colours = []
        for name in ("all", "cache", "mbpa"):
            gain = passage["gain"][name][i]
            step = sum(abs(gain) >= edge for edge in STEPS)
            if step:
                kind = f"gain-{step}" if gain > 0 else f"loss-{min(step, 3)}"
                colours.append(f"--{name}:var(--{kind})")
        assert shown["style"] == ";".join(colours)
        assert shown["note"].startswith(words[str(index)])
        for place, label, share, _ in passage["neighbours"]["cache"][i]:
            before = " ".join(words[str(held[at])] for at in range(place - 6, place))
            tick = " ✓" if label == index else ""
            ago = f"{words[str(label)]}{tick}{FIRST + i - place:,} ago{share:.0%}"
            assert f"… {before} {ago}" in shown["note"]
        assert shown["note"].count(" ago") == sum(len(passage["neighbours"][name][i]) for name in ("cache", "mbpa"))
    assert any("✓" in shown["note"] for shown in reader.tokens)


def test_pairs_of_the_training_text(tmp_path):
    passage = make_passage(stored=True)
    held = passage["contexts"]["train"][0][1]
    (place, label, *_), *_ = passage["neighbours"]["mbpa"][13]
    words = {**passage["words"], "3": SEEN}
    before = " ".join(words[str(held[at])] for at in range(max(0, place - 6), place))
    shown = read(section_of(tmp_path, passage)).tokens[13]
    assert f"… {before} {words[str(label)]}training token {place + 1:,}50%" in shown["note"]


def test_an_entry_that_is_not_of_this_text_has_no_context(tmp_path):
    passage = make_passage(cache={"size": 9, "weight": 0.1})
    passage["neighbours"]["cache"][0] = [[FIRST - 1, (passage["contexts"]["text"][0][1][99] + 1) % 5, 1.0, 0.0]]
    assert "…" not in read(section_of(tmp_path, passage)).tokens[0]["note"]


@pytest.mark.parametrize(
    ("model", "gain", "told"),
    [
        (-math.log(0.5), math.log(1.5), "model 50%with cache 75% (+0.405 nats)"),
        (-math.log(0.02), -0.105, "model 2.0%with cache 1.8% (−0.105 nats)"),
        (-math.log(0.00031), 0.0, "model 0.031%with cache 0.031% (0.000 nats)"),
        (30.0, 25.0, "model < 0.001%with cache 0.67% (+25.000 nats)"),
        (1e-9, 1e-8, "model 100%with cache 100% (0.000 nats)"),
        (None, None, "model –with cache –"),
    ],
)
def test_probabilities_before_and_after(tmp_path, model, gain, told):
    passage = make_passage(1, cache={"size": 5, "weight": 0.1})
    passage["words"]["0"] = "w"
    passage["nll"]["model"], passage["gain"]["cache"] = [model], [gain]
    (token,) = read(section_of(tmp_path, passage)).tokens
    assert token["note"] == "w " + told


def test_page_is_safe_and_alone(tmp_path):
    page = section_of(tmp_path, make_passage())
    assert read(page).tags <= {"section", "h2", "p", "strong", "div", "span", "b", "i", "a", "input", "label", "br"}
    assert "&lt;unk&gt;" in page
    assert "<unk>" not in page
    assert "<b onclick" not in page
    assert html.escape(SEEN) in page
    assert NASTY[-2:] not in page
    for word in ("http", "url(", "src=", "<script", "@import"):
        assert word not in page
    assert re.findall(r'href="([^"]{1,9})', page) == ["passage.h", "#passage-"]


def test_two_runs_stand_on_one_page(tmp_path):
    pages = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pages.append(section_of(tmp_path / name, make_passage()))
    ids = [read(page).ids for page in pages]
    assert len(ids[0]) == len(set(ids[0])) == 4
    assert not set(ids[0]) & set(ids[1])
    for page, own in zip(pages, ids, strict=True):
        assert re.findall(r'<label for="([^"]*)"', page) == own[:3]
        assert page.count(" checked>") == 1
        assert f'id="{own[0]}" class=all checked' in page


def test_the_passage_says_what_it_is(tmp_path):
    passage = make_passage()
    page = html.unescape(re.sub("<.*?>", "", section_of(tmp_path, passage)))
    assert f"Tokens 17,707 to 17,746 of the test split under {SEEN}, by a rule" in html.unescape(page)
    own = {name: math.fsum(passage["gain"][name]) / 40 for name in ("all", "cache")}
    assert f"The model alone takes {math.fsum(passage['nll']['model']) / 40:.3f} nats" in page
    assert (
        f"Both: {own['all']:+.3f} nats a token here, −0.062 over the whole test split. A token can lose 0.151" in page
    )
    assert f"Cache (size 2,000, theta 0.3, weight 0.1): {own['cache']:+.3f} nats a token here, +0.125 over" in page


def test_more_than_two_memories_are_all(tmp_path, monkeypatch):
    monkeypatch.setitem(MEMORIES, "knn", MEMORIES["mbpa"])
    passage = make_passage(**{name: {"weight": 0.1} for name in ("cache", "mbpa", "knn")})
    page = section_of(tmp_path, passage)
    assert ">all</label>" in page
    assert ", with all " in page
    assert "both" not in page


def test_a_memory_without_pairs_has_its_numbers_only(tmp_path):
    passage = make_passage()
    del passage["neighbours"]["mbpa"], passage["guesses"]["mbpa"]
    note = read(section_of(tmp_path, passage)).tokens[3]["note"]
    assert "with MbPA" in note
    assert note.count(" ago") == 3


@pytest.mark.parametrize("name", ["cache", "mbpa"])
def test_one_memory_needs_no_switch(tmp_path, name):
    page = section_of(tmp_path, make_passage(**{name: {"size": 9, "weight": 0.05}}))
    read(page)
    assert "<label" not in page
    assert page.count("<input hidden ") == page.count(f"class={name} checked") == 1
    assert "for-all" not in page


def test_a_report_shows_250_tokens_and_stays_small(tmp_path):
    page = section_of(tmp_path, make_passage(2000))
    assert len(read(page).tokens) == 250
    assert len(page.encode()) < 500_000
    assert '<a href="passage.html">Look inside</a>: 2,000 tokens' in page
    assert (tmp_path / "passage.html").exists()


def test_without_a_passage_there_is_no_section(tmp_path):
    assert draw_passage(record_of(tmp_path, make_passage()), tmp_path) == ""
    assert not list(tmp_path.iterdir())


def test_a_passage_of_another_evaluation_is_not_shown(tmp_path):
    passage = make_passage()
    assert section_of(tmp_path, passage)
    (tmp_path / "passage.html").unlink()
    for change in ({"split": "valid"}, {"settings": passage["settings"] | {"mbpa": None}}):
        assert draw_passage(record_of(tmp_path, passage | change), tmp_path) == ""
    plain = record_of(tmp_path, passage)
    assert draw_passage(dataclasses.replace(plain, result={"split": "test", "memory": None}), tmp_path) == ""
    assert draw_passage(dataclasses.replace(plain, result=None), tmp_path) == ""
    assert not (tmp_path / "passage.html").exists()


def test_a_passage_of_an_earlier_version_is_left_out_and_named(tmp_path, capsys):
    earlier = {"split": "test", "settings": {"cache": None}, "mean": {"model": 1.0}, "tokens": [{"word": "a"}]}
    assert section_of(tmp_path, earlier) == ""
    told = " ".join(capsys.readouterr().err.split())
    assert "passage.json is of an earlier firstsight and is not shown. Make it anew: firstsight eval RUN --mem" in told


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda p: p.update(format="firstsight passage 3"), "format is 'firstsight passage 3'"),
        (lambda p: p.pop("run"), "run is missing"),
        (lambda p: p.update(split=3), "split is 3"),
        (lambda p: p.update(first=-1), "first is -1"),
        (lambda p: p.update(settings=None), "settings is None"),
        (lambda p: p.update(settings={"cache": None}), "settings is"),
        (lambda p: p["settings"]["cache"].pop("weight"), "settings have no weight"),
        (lambda p: p["settings"]["cache"].update(weight=2), "settings have no weight"),
        (lambda p: p["split_mean"].pop("all"), "split_mean has no all"),
        (lambda p: p["split_mean"].update(model="low"), "split_mean.model is 'low'"),
        (lambda p: p.update(tokens=[]), "tokens is []"),
        (lambda p: p["tokens"].insert(2, None), "tokens is"),
        (lambda p: p["tokens"].insert(2, 1), "nll of model are 40, the tokens 41"),
        (lambda p: p["tokens"].__setitem__(5, 77), "the word of number 77 is missing"),
        (lambda p: p["words"].pop("3"), "the word of number 3 is missing"),
        (lambda p: p["nll"]["model"].__setitem__(5, True), "nll.model[5] is True"),
        (lambda p: p["nll"].pop("mbpa"), "nll has no mbpa"),
        (lambda p: p["gain"]["cache"].__setitem__(5, "nan"), "gain.cache[5] is 'nan'"),
        (lambda p: p["gain"].pop("all"), "gain has no all"),
        (lambda p: p["guesses"].pop("model"), "guesses has no model"),
        (lambda p: p["guesses"]["cache"][3].append([1, 7.0]), "guesses.cache is"),
        (lambda p: p["neighbours"]["cache"][3][0].pop(), "neighbours.cache is"),
        (lambda p: p["neighbours"]["cache"][3][0].__setitem__(0, -1), "neighbours.cache is"),
        (lambda p: p["neighbours"]["cache"].pop(), "neighbours of cache are 39"),
        (lambda p: p["contexts"].pop("train"), "contexts.train is missing"),
        (lambda p: p["contexts"]["text"].append([1, 2]), "contexts.text is"),
        (lambda p: p["latest"]["classes"][0].update(place="x"), "latest.classes[0].place is 'x'"),
        (lambda p: p["latest"]["classes"][0].update({"class": 50}), "the word of number 50 is missing"),
        (lambda p: p["moved"].pop("first"), "of moved: first is missing"),
        (lambda p: p["moved"]["classes"][2].pop("moved"), "of moved: classes[2].moved is missing"),
        (lambda p: p.update(moved={"why": 3}), "of moved: why is 3"),
    ],
)
def test_a_damaged_passage_is_named(tmp_path, change, named):
    passage = make_passage()
    change(passage)
    with pytest.raises(InputError, match=rf"passage\.json: this is damaged: {re.escape(named)}.*eval RUN --memory"):
        section_of(tmp_path, passage)


@pytest.mark.parametrize("content", ["", "{", "[]", '"text"', "null"])
def test_a_file_that_is_no_passage(tmp_path, content):
    (tmp_path / "passage.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"passage\.json: this .*damaged"):
        draw_passage(record_of(tmp_path, make_passage()), tmp_path)


def test_the_page_styles_what_the_passage_is_made_of(tmp_path):
    style = files("firstsight.lab.report").joinpath("page.html").read_text(encoding="utf-8").split("</style>")[0]
    style += passage_style()
    classes = read(section_of(tmp_path, make_passage())).classes
    assert {"t", "n", "tokens", "recalled", "colours", "for-all"} <= classes
    assert not {name for name in classes if not re.search(rf"\.{name}\b", style)}


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_colour_keeps_the_text_legible():
    style = files("firstsight.lab.report").joinpath("page.html").read_text(encoding="utf-8")
    light, dark = (dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", part)) for part in style.split("@media screen")[:2])
    names = [f"gain-{i + 1}" for i in range(len(STEPS))] + [f"loss-{i + 1}" for i in range(LOST)]
    for mode in (light, dark):
        ink, paper = luminance(mode["ink"]), luminance(mode["paper"])
        for name in names:
            colour = luminance(mode[name])
            assert (max(ink, colour) + 0.05) / (min(ink, colour) + 0.05) >= 4.5, name
        for kind in ("gain", "loss"):
            apart = [abs(luminance(mode[name]) - paper) for name in names if name.startswith(kind)]
            assert apart == sorted(apart), "a larger change is farther from the page's colour"
            assert apart[0] > 0
