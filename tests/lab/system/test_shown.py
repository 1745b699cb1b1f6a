"""What reaches a terminal: texts of others as they can be seen, and none of what they would do there."""

import io

import pytest
from rich.table import Table
from rich.text import Text

from firstsight.lab.system import progress
from firstsight.lab.system.progress import Bar, PlainConsole, is_utf8, say, shown

HOSTILE = {
    "\x1b[31mred": r"\x1b[31mred",
    "a\x00b": r"a\x00b",
    "\x9b2J": r"\x9b2J",
    "\u202eevil\u2066": r"\u202eevil\u2066",
    "one\ntwo\r\tthree": r"one\ntwo\r\tthree",
    "caf\udce9": r"caf\udce9",
    "\u2028": r"\u2028",
    "del\x7f": r"del\x7f",
    "\U000e0041": r"\U000e0041",
}
HARMLESS = ["", "naïve 日本 🙂", "می\u200cخواهم", "👩\u200d👩", "[red]x[/foo]", r"back\slash", ":smile:"]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_acts_is_an_escape(text):
    assert shown(text) == HOSTILE[text]
    assert shown(f"before {text} after") == f"before {HOSTILE[text]} after"


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_read_stays(text):
    assert shown(text) == text
    assert shown(shown(text)) == text


def test_what_is_to_be_kept_is_kept():
    assert shown("a\nb\x1b", keep="\n") == "a\nb\\x1b"


def test_utf8_or_not():
    assert is_utf8("naïve \x1b\n日本\U000e0041")
    assert not is_utf8("caf\udce9")


def printed(draw, **options) -> str:
    file = io.StringIO()
    console = PlainConsole(file=file, width=200, **options)
    draw(console)
    return file.getvalue()


@pytest.mark.parametrize("text", [*HOSTILE, *HARMLESS])
def test_a_console_takes_a_text_as_it_is(text):
    want = HOSTILE.get(text, text)
    assert printed(lambda console: console.print(text)) == f"{want}\n"
    drawn = printed(lambda console: console.print(Text(text)))  # of which rich itself leaves out some
    assert shown(drawn, keep="\n") == drawn


def test_a_table_is_straight_whatever_is_in_it():
    def draw(console):
        table = Table(title="title\x1b[2J [/foo]")
        table.add_column("[red]name\x9b")
        for text in HOSTILE:
            table.add_row(text)
        console.print(table)

    title, *lines = printed(draw).splitlines()
    assert title.strip() == r"title\x1b[2J [/foo]"
    assert lines[1].strip("┃ ") == r"[red]name\x9b"
    assert len({len(line) for line in lines}) == 1
    assert [line.strip("│ ") for line in lines[3:-1]] == list(HOSTILE.values())


def test_its_own_colours_and_those_alone_reach_a_terminal():
    def draw(console):
        console.print(Text("bold \x1b[31m", style="bold"))
        console.print("plain \x1b[31m [bold]")

    found = printed(draw, force_terminal=True, color_system="standard")
    assert found == "\x1b[1mbold \\x1b[31m\x1b[0m\nplain \\x1b[31m [bold]\n"


def test_what_is_said_is_one_line(monkeypatch):
    monkeypatch.setattr(progress, "console", PlainConsole(file=io.StringIO(), width=200))
    say("runs/x[/foo]\n\x1b[2J: [red] :smile:")
    with Bar("train x[/foo]\x1b", 10, every=0.0) as bar:
        bar.update(5, "[bold]\x1b")
    said, told = progress.console.file.getvalue().splitlines()
    assert said == r"runs/x[/foo]\n\x1b[2J: [red] :smile:"
    assert told == r"train x[/foo]\x1b 5/10 [bold]\x1b"


def test_a_bar_on_a_terminal_moves_and_its_texts_do_not():
    file = io.StringIO()
    console = PlainConsole(file=file, width=120, force_terminal=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "console", console)
        with Bar("train x[/foo]\x1b[5m", 10) as bar:
            bar.update(10, "[/bar]\x9b")
    found = file.getvalue()
    assert "\x1b[?25l" in found, "the cursor is hidden"
    assert r"train x[/foo]\x1b[5m" in found
    assert r"[/bar]\x9b" in found
    assert "\x1b[5m" not in found
    assert "\x9b" not in found


class Gone(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_reader_that_has_gone_ends_no_work():
    console = PlainConsole(file=Gone())
    console.print("one")
    console.print("two")
