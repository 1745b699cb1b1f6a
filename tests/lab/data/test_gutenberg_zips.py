import zipfile
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mirror_books import text, zipped

from firstsight.lab.data.gutenberg import source
from firstsight.lab.data.gutenberg.source import DamagedError, unzip


@pytest.mark.parametrize("name", ["../a.txt", "x/../../a.txt", "/etc/a.txt", "..\\a.txt", "C:\\a.txt", "\\a.txt"])
def test_a_member_that_leads_outside(name: str) -> None:
    with pytest.raises(DamagedError, match="leads outside"):
        unzip(zipped({"a.txt": b"good", name: b"evil"}), "a.txt")


def test_a_member_in_a_folder_and_in_capitals() -> None:
    assert unzip(zipped({"z/a.txt": b"2", "z/y/a.txt": b"3", "A.TXT": b"1"}), "a.txt") == b"1"
    assert unzip(zipped({"z/y/a.txt": b"3", "z/a.txt": b"2"}), "a.txt") == b"2"


def test_a_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "MAX_BYTES", 1 << 20)
    bomb = zipped({"a.txt": bytes(3 << 20)})
    with pytest.raises(DamagedError, match="unpacks to more than"):
        unzip(bomb, "a.txt")
    lie = bomb.replace((3 << 20).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    with pytest.raises(DamagedError, match="CRC"):
        unzip(lie, "a.txt")
    with pytest.raises(DamagedError, match="compression method 12"):
        unzip(zipped({"a.txt": bytes(9)}, zipfile.ZIP_BZIP2), "a.txt")


def test_an_encrypted_zip() -> None:
    raw = bytearray(zipped({"a.txt": b"x" * 99}))
    raw[6] |= 1
    raw[raw.index(b"PK\1\2") + 8] |= 1
    with pytest.raises(DamagedError, match="encrypted"):
        unzip(bytes(raw), "a.txt")


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_zip_never_gives_another_text(data: st.DataObject) -> None:
    raw = bytearray(zipped({"x/a.txt": text(1)[:200] + bytes(200), "b": b"b"}))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with suppress(DamagedError):
        assert unzip(bytes(raw[: data.draw(st.integers(0, 2 * len(raw)))]), "a.txt") == text(1)[:200] + bytes(200)
