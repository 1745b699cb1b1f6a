"""The appendix's script (A.3.2) a second time, as plainly as Python 3 allows: what the package's is held against."""

import nltk


def plain_process_text(raw: bytes) -> bytes:
    marker = b"START OF THIS PROJECT GUTENBERG EBOOK"
    first = raw.find(marker) + len(marker)
    last = raw.find(b"END OF THIS PROJECT GUTENBERG EBOOK")
    text = raw[first:last].decode("utf-8", "ignore")
    for line_end in "\r\n":
        text = text.replace(line_end, " ")
    tokens = []
    for sentence in nltk.sent_tokenize(text):
        tokens.extend(nltk.word_tokenize(sentence))
        tokens.append("\n")
    return " ".join(tokens).lower().encode("utf-8")
