"""Articles of a wiki_dump are read one by one, whatever is damaged between them; redirects and other namespaces say so."""

import bz2
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.data import mediawiki
from openherd.data.mediawiki import read_wiki
from openherd.data.pages import DamageError, Page, Place, all_found
from openherd.data.reading import Reading, read_file
from openherd.data.wikitext import wiki_text
from source_files import WIKI_HEAD, WIKI_PAGES, wiki_dump, wiki_page


def read(content, start=(0, 0)):
    return list(all_found(read_wiki(io.BytesIO(content), Place(*start))))


def test_pages():
    pages = read(
        wiki_dump(
            wiki_page("Ada & Bob", "'''Ada''' met [[Robert|Bob]] <nowiki><page> </page></nowiki>."),
            wiki_page("AB", "#REDIRECT [[Ada & Bob]]", redirect="Ada &amp; Bob"),
            wiki_page("Talk:AB", "hello", ns=1),
            wiki_page("AB.js", "x()", model="javascript"),
            wiki_page("Only boxes", "{{Infobox|a=b}}"),
            wiki_page("Long & old", "the last", revisions=3),
        )
    )
    assert [page.content.decode() for page in pages if not page.drop] == [
        "Ada & Bob\n\nAda met Bob <page> </page>.",
        "Long & old\n\nthe last",
    ]
    assert [(page.drop.reason, page.drop.detail) for page in pages if page.drop] == [
        ("redirect", "Ada & Bob"),
        ("namespace", "Talk"),
        ("content model", "javascript"),
        ("empty", "nothing but templates"),
    ]
    first = pages[0]
    assert (first.url, first.date) == ("https://en.wikipedia.org/wiki/Ada_&_Bob", "2026-01-02T03:04:05Z")
    assert (first.license, first.attribution, first.source) == ("CC-BY-SA-4.0", "contributors to Wikipedia", "wikipedia")
    assert [page.offset for page in pages] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("broken", "n_damage"),
    [
        (WIKI_PAGES[2].replace("</title>", ""), 1),
        (WIKI_PAGES[2].replace("  </page>\n", ""), 1),
        (WIKI_PAGES[2].replace("<page>", ""), 0),
        ("noise\n" + WIKI_PAGES[2], 1),
        (WIKI_PAGES[2].replace("text 2", "\x01"), 1),
        (WIKI_PAGES[2].replace("<revision>", "<nothing>").replace("</revision>", "</nothing>"), 1),
    ],
)
def test_a_damaged_page_alone_is_lost(broken, n_damage):
    found = read(wiki_dump(*WIKI_PAGES[:2], broken, *WIKI_PAGES[3:]))
    titles = [page.title for page in found if isinstance(page, Page)]
    assert titles in (["T0", "T1", "T3", "T4"], ["T0", "T1", "T2", "T3", "T4"])
    assert ("T2" in titles) == (broken.startswith("noise") or "<page>" not in broken)
    assert sum(isinstance(x, DamageError) for x in found) == n_damage
    for i in range(len(found)):
        assert [str(x) for x in read(wiki_dump(*WIKI_PAGES[:2], broken, *WIKI_PAGES[3:]), (0, i))] == [str(x) for x in found[i:]]


def test_a_dump_cut_anywhere():
    content = wiki_dump(*WIKI_PAGES)
    last = content.index(b"</mediawiki>") + len(b"</mediawiki>")
    for cut in range(1, len(content), 37):
        found = read(content[:cut])
        whole = content[:cut].count(b"</page>")
        assert [page.title for page in found if isinstance(page, Page)] == [f"T{i}" for i in range(whole)]
        assert any(isinstance(x, DamageError) for x in found) == (cut < last)


@settings(max_examples=30)
@given(st.integers(1, 400))
def test_the_size_of_what_is_read_at_once_changes_nothing(size):
    whole = read(wiki_dump(*WIKI_PAGES, "noise", *WIKI_PAGES))
    before, mediawiki.BLOCK = mediawiki.BLOCK, size
    try:
        assert [str(x) for x in read(wiki_dump(*WIKI_PAGES, "noise", *WIKI_PAGES))] == [str(x) for x in whole]
    finally:
        mediawiki.BLOCK = before


def test_a_page_too_long_is_passed_over_in_bounded_memory(monkeypatch):
    monkeypatch.setattr(mediawiki, "LONGEST_PAGE", 5_000)
    monkeypatch.setattr(mediawiki, "BLOCK", 1_000)
    found = read(wiki_dump(*WIKI_PAGES[:2], wiki_page("Long", "x " * 20_000), *WIKI_PAGES[3:]))
    assert [page.title for page in found if isinstance(page, Page)] == ["T0", "T1", "T3", "T4"]
    assert any(isinstance(x, DamageError) for x in found)


def test_compressed_dumps(tmp_path):
    streams = [bz2.compress(part.encode()) for part in (WIKI_HEAD, *WIKI_PAGES, "</mediawiki>\n")]
    (tmp_path / "enwiki-pages-articles-multistream.xml.bz2").write_bytes(b"".join(streams))
    found = list(read_file(str(tmp_path / "enwiki-pages-articles-multistream.xml.bz2"), Reading()))
    assert [page.title for page in found] == [f"T{i}" for i in range(5)]
    (tmp_path / "cut.xml.bz2").write_bytes(b"".join(streams)[:-20])
    found = list(read_file(str(tmp_path / "cut.xml.bz2"), Reading()))
    assert [page.title for page in found if isinstance(page, Page)] == [f"T{i}" for i in range(5)]
    assert isinstance(found[-1], DamageError)
    (tmp_path / "other.xml").write_bytes(b"<?xml version='1.0'?><feed/>")
    (other,) = read_file(str(tmp_path / "other.xml"), Reading())
    assert (other.drop.reason, other.drop.detail) == ("file kind", "XML: feed")


NAMESPACES = {"6": "Datei", "14": "Kategorie"}


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("'''Bold''', ''italic'' and '''''both'''''.", "Bold, italic and both."),
        ("[[Link]], [[Link|shown]], [[:Kategorie:X]], [[Link]]s", "Link, shown, Kategorie:X, Links"),
        ("[[Kategorie:X]][[Category:Y]][[de:Z]]a", "a"),
        ("[[Datei:X.jpg|mini|hochkant=1.2|Ein [[Bild]] mit {{lang|fr|mot}}]]\na", "Ein Bild mit mot\n\na"),
        ("[[File:X.jpg|thumb|200px]]a [[Image:Y.png]]b", "a b"),
        ("See [http://x.org the page], http://y.org and [http://z.org].", "See the page, http://y.org and ."),
        ("a<ref>b {{cite|c}}</ref><ref name=d/>{{citation needed}} e", "a e"),
        ("{{convert|5|km|mi}}, {{frac|1|2}}, {{frac|3|1|2}}, {{lang|de|Öl}}, {{nowrap|a b}}", "5 km, 1/2, 3 1/2, Öl, a b"),
        ("{{Infobox\n|a={{nowrap|b}}\n|c=[[d]]}}\nText", "Text"),
        ("a&nbsp;b &amp; c&mdash;d&#8211;e <!-- no -->f", "a b & c—d–e f"),
        ("<math>x^2</math> and <math display=\"block\">\\int ''f''</math>", "$x^2$ and\n$$\\int ''f''$$"),
        ("<syntaxhighlight lang=\"c\">\nint f() {\n  return '''1''';\n}\n</syntaxhighlight>", "int f() {\n  return '''1''';\n}"),
        ("<nowiki>[[a]] '''b'''</nowiki> c", "[[a]] '''b''' c"),
        ("* a\n* b\n** [[c]]\n# d\n: e\n; f : g", "- a\n- b\n  - c\n- d\n  e\nf: g"),
        ("{|\n|+ Cap\n! A !! B\n|-\n| 1 || [[x|2]]\n|-\n| 3\n| 4\n|}", "Cap\nA | B\n1 | 2\n3 | 4"),
        ("H<sub>2</sub>O is ''wet''<br />here __NOTOC__", "H2O is wet\nhere"),
        ("a (born {{birth|1}}) b ( ; ) c", "a (born) b c"),
        ("{{{1|default}}} text", "default text"),
    ],
)
def test_wikitext(wikitext, text):
    assert wiki_text(wikitext, NAMESPACES) == text


def test_headings_that_nothing_follows_go():
    text = "a\n== One ==\nb\n== Two ==\n=== Three ===\nc\n=== Four ===\n{{x}}\n== See ==\n* [[d]]\n"
    text += "== Refs ==\n<references />\n=== More ===\n"
    assert wiki_text(text, {}) == "a\n\nOne\n\nb\n\nTwo\n\nThree\n\nc\n\nSee\n\n- d"


@settings(max_examples=150)
@given(
    st.lists(
        st.sampled_from(["{{", "}}", "[[", "]]", "{|", "|}", "|", "\n", "<ref>", "</ref>", "<math>", "''", "=", "*", "a", "é", " "])
    )
)
def test_wikitext_of_any_kind_is_read(pieces):
    assert isinstance(wiki_text("".join(pieces), NAMESPACES), str)


def test_deep_nesting_ends():
    deep = ["{{nowrap|" * 300 + "x" + "}}" * 300, "[[File:a|" * 300 + "y" + "]]" * 300]
    for text in (*deep, "(" * 5_000 + " " * 5_000, "{|\n" * 200):
        assert isinstance(wiki_text(text, {}), str)


def test_words_are_never_lost():
    words = [f"w{i}" for i in range(300)]
    source = random.Random(0)
    wrap = [
        "{}",
        "'''{}'''",
        "[[{}]]",
        "[[x|{}]]",
        "\n* {}\n",
        "<small>{}</small>",
        "{{{{nowrap|{}}}}}",
        "<code>{}</code>",
    ]
    text = " ".join(source.choice(wrap).format(word) for word in words) + " end"
    assert [w for w in wiki_text(text, {}).split() if w.startswith("w")] == words
