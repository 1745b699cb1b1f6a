import nltk
import pytest
from hypothesis import given
from hypothesis import strategies as st

from firstsight.errors import InputError
from firstsight.lab.data import tokenize
from firstsight.lab.data.tokenize import TOKENIZERS, tokenize_lines


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Don't stop, it's a well-known x-y-z!", "Don't stop , it's a well-known x-y-z !"),
        ("the dogs' 'quoted' -dash- end-", "the dogs ' ' quoted ' - dash - end -"),
        ("f(snake_case, 3.14)", "f ( snake_case , 3 . 14 )"),
        ("l’été naïve cafe\u0301", "l’été naïve cafe\u0301"),
        ("a\u3000b\tc\r", "a b c"),
        ("...", ". . ."),
        ("東京 Москва", "東京 Москва"),
        (" ", ""),
    ],
)
def test_words(line: str, expected: str) -> None:
    assert tokenize(line, "words") == expected.split()


def test_whitespace_and_lower_case() -> None:
    assert tokenize(" A b-C\u3000d. ", "whitespace") == ["A", "b-C", "d."]
    assert tokenize(" A b-C d. ", "whitespace-lower") == ["a", "b-c", "d."]
    assert tokenize("A b-C d.", "words-lower") == ["a", "b-c", "d", "."]


def test_nltk_finds_sentences_across_lines() -> None:
    lines = ["Mr. Smith said", '"No." He didn\'t', "go. İt"]
    text = " ".join(lines)
    expected = [[word.lower() for word in nltk.word_tokenize(s)] for s in nltk.sent_tokenize(text)]
    assert len(expected) > 2
    assert list(tokenize_lines(lines, "nltk-lower")) == expected
    assert tokenize(text, "nltk-lower") == [word for sentence in expected for word in sentence]
    assert list(tokenize_lines(["A b.", "", "C"], "words-lower")) == [["a", "b", "."], [], ["c"]]
    with pytest.raises(InputError, match="'bpe'"):
        list(tokenize_lines(["a"], "bpe"))


# NLTK's words change quotes, so there nothing of the kind holds.
@given(st.text(), st.sampled_from([name for name in TOKENIZERS if name != "nltk-lower"]))
def test_nothing_but_blanks_is_lost(line: str, tokenizer: str) -> None:
    tokens = tokenize(line, tokenizer)
    text = line.lower() if tokenizer.endswith("lower") else line
    assert "".join(tokens) == "".join(text.split())
    assert all(tokens)


def test_unknown_tokenizer() -> None:
    with pytest.raises(InputError, match="'bpe'; expected one of words, words-lower, whitespace"):
        tokenize("a", "bpe")
