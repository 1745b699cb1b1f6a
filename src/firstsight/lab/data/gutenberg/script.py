# Copyright 2018 Google LLC.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
# https://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
#
# Derived from the script in section A.3.2 of "Fast Parametric Learning with Activation Memorization"; changed for
# Python 3 and cut into functions. What it gives is the same, byte for byte.
"""The paper's script: a book as it lies on a mirror becomes lower-case text, one sentence a line.

Its quirks are kept, since they are in the paper's numbers:

* The text begins right behind the words ``START OF THIS PROJECT GUTENBERG EBOOK``, so the book's title and ``***``
  come along. Where they are missing the text begins at byte 35 of the file, and the licence stays in.
* It ends where ``END OF THIS PROJECT GUTENBERG EBOOK`` first stands. Where that is missing only the file's last byte
  is dropped; where it stands before the beginning nothing is left.
* Newer files write ``START OF THE PROJECT GUTENBERG EBOOK``, which is not found.
* Bytes that are not UTF-8 are dropped: a Latin-1 file loses its accented letters and its dashes.
* Line ends become blanks, so a heading and the paragraph under it are one sentence where no full stop parts them.
* Every sentence ends with a blank and a line end; a blank stands before the next one.
"""

from firstsight.lab.data.punkt import sentences

START = b"START OF THIS PROJECT GUTENBERG EBOOK"
END = b"END OF THIS PROJECT GUTENBERG EBOOK"


def process_text(raw: bytes) -> bytes:
    """The bytes that the script of section A.3.2 makes of a book, ``raw`` being the file as downloaded.

    They are UTF-8, lower case: words between single blanks, the word ``"\\n"`` behind each sentence.

    Raises:
        InputError: NLTK's sentence model is missing and cannot be downloaded.
    """
    return tokenized(extract(raw))


def between_markers(raw: bytes) -> bytes:
    """The part of a file that the script takes for the text."""
    start = raw.find(START) + len(START)
    end = raw.find(END)
    return raw[start:end]


def extract(raw: bytes) -> str:
    """The text between the markers, line ends as blanks."""
    text = between_markers(raw).decode("utf-8", "ignore")
    return text.replace("\r", " ").replace("\n", " ")


def tokenized(text: str) -> bytes:
    """The script's second half: sentences, words, lower case, UTF-8."""
    words: list[str] = []
    for sentence in sentences(text):
        words += sentence
        words.append("\n")
    return " ".join(words).lower().encode("utf-8")
