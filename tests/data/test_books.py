"""A book is its text: chapters in the order of reading, without what Project Gutenberg puts around."""

import io

import pytest

from openherd.data.books import gutenberg, read_epub
from openherd.data.pages import DamageError
from openherd.data.reading import Reading, read_file
from source_files import BOOK, epub

HEADER = """The Project Gutenberg eBook of A Tale

This ebook is for the use of anyone anywhere in the United States.

Title: A Tale
        of Herds

Author: Ann Author

Release date: July 23, 2004 [eBook #1342]
                Most recently updated: May 1, 2024

Language: English

*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***
"""
BODY = "CHAPTER I\n\nIt began.\n\n    A verse,\n      indented."
FOOTER = "\n\n*** END OF THE PROJECT GUTENBERG EBOOK A TALE ***\n\nUpdated editions will replace the previous one.\n"


def test_header_and_footer_go():
    for end in ("\n", "\r\n"):
        text, known = gutenberg(
            (HEADER + "\nProduced by Some One and the\nProofreading Team\n\n\n" + BODY + FOOTER).replace("\n", end)
        )
        assert text == BODY
        assert known == {
            "url": "https://www.gutenberg.org/ebooks/1342",
            "title": "A Tale of Herds",
            "attribution": "Ann Author",
            "date": "2004-07-23",
            "license": "LicenseRef-Project-Gutenberg",
        }


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        (
            "*** START OF THIS PROJECT GUTENBERG EBOOK A TALE ***\n",
            "\nEnd of the Project Gutenberg EBook of A Tale, by A\n\n*** END OF THIS PROJECT GUTENBERG EBOOK ***",
        ),
        ("*END*THE SMALL PRINT! FOR PUBLIC DOMAIN ETEXTS*Ver.04.29.93*END*\n", "\nEnd of Project Gutenberg's A Tale\n"),
        ("***START OF THE PROJECT GUTENBERG EBOOK A LONG\nTALE***\n", "\n***END OF THE PROJECT GUTENBERG EBOOK A LONG TALE***"),
        ("*** START OF THE PROJECT GUTENBERG EBOOK A TALE ***\n", ""),
    ],
)
def test_markers_of_all_times(begin, end):
    text, _ = gutenberg("The Project Gutenberg Etext of A Tale\n\n" + begin + "\n" + BODY + "\n" + end)
    assert text == BODY


def test_other_texts_stay(tmp_path):
    assert gutenberg("I read it on Project Gutenberg.\n") is None
    (tmp_path / "a.txt").write_text("A page about Project Gutenberg.", encoding="utf-8")
    (page,) = read_file(str(tmp_path / "a.txt"), Reading())
    assert (page.content, page.source) == (b"A page about Project Gutenberg.", "")
    (tmp_path / "pg1342.txt").write_text(HEADER + BODY + FOOTER, encoding="utf-8")
    (page,) = read_file(str(tmp_path / "pg1342.txt"), Reading())
    assert (page.content.decode(), page.source, page.title) == (BODY, "books", "A Tale of Herds")


def test_an_epub():
    page = read_epub(epub(BOOK), "file:///a.epub")
    assert page.content.decode().split("\n\n") == ["One", "First & foremost.", "Two", "x\n  y"]
    assert (page.title, page.attribution, page.license) == ("Of Herds", "Ann Author; Bo Other", "CC BY 4.0")
    assert (page.url, page.date, page.source) == ("file:///a.epub", "2020-05-01", "books")


def test_an_epub_of_project_gutenberg():
    first = f"<body><pre>{HEADER}</pre><p>It began.</p></body>"
    page = read_epub(epub(BOOK | {"OEBPS/text/one.xhtml": first, "OEBPS/text/two b.xhtml": f"<p>End.</p><pre>{FOOTER}</pre>"}), "u")
    assert page.content.decode().split() == ["It", "began.", "End."]
    assert (page.url, page.title, page.license) == (
        "https://www.gutenberg.org/ebooks/1342",
        "Of Herds",
        "LicenseRef-Project-Gutenberg",
    )


@pytest.mark.parametrize("missing", ["META-INF/container.xml", "OEBPS/book.opf", "OEBPS/text/one.xhtml"])
def test_a_damaged_epub(missing):
    found = read_epub(epub({name: content for name, content in BOOK.items() if name != missing}), "u")
    assert isinstance(found, DamageError)
    cut = read_epub(io.BytesIO(epub(BOOK).getvalue()[:-30]), "u")
    assert isinstance(cut, DamageError)


def test_an_epub_under_digital_rights_management():
    method = '<encryption><EncryptionMethod Algorithm="{}"/></encryption>'
    page = read_epub(epub(BOOK | {"META-INF/encryption.xml": method.format("http://www.w3.org/2001/04/xmlenc#aes256-cbc")}), "u")
    assert page.drop.reason == "encrypted"
    page = read_epub(epub(BOOK | {"META-INF/encryption.xml": method.format("http://www.idpf.org/2008/embedding")}), "u")
    assert page.drop is None  # fonts alone
