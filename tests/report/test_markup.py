"""Markup: what goes in as text comes out as text, whatever it holds. The oracle is the standard library's own parser."""

import base64
import hashlib
import json
from html.parser import HTMLParser

import plotly.graph_objects as go
from hypothesis import given
from hypothesis import strategies as st

from openherd.report.markup import Html, document, element, figure, join, table

# HTML turns a carriage return into a line feed, and NUL into a replacement.
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


class Parsed(HTMLParser):
    """The elements of a page, and the text of each, in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.texts: list[str] = []  # up to the first element within, or the end
        self._is_open = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.texts.append("")
        self._is_open = True

    def handle_endtag(self, tag):
        self._is_open = False

    def handle_data(self, data):
        if self._is_open:
            self.texts[-1] += data


@given(TEXTS, TEXTS)
def test_text_and_attributes_come_back_as_they_were(text, value):
    parsed = Parsed(element("p", text, title=value))
    assert parsed.elements == [("p", {"title": value})]
    assert parsed.texts == [text]


def test_element():
    assert (
        element("p", 1, " & ", element("b", "x"), class_="a", aria_label="b", id=None)
        == '<p class="a" aria-label="b">1 &amp; <b>x</b></p>'
    )
    assert element("br") == "<br>"
    assert join(["<", None, Html("<br>")]) == "&lt;<br>"


def test_table():
    parsed = Parsed(table("Some <b>", ("name", "n"), [("<x>", 1)], right=(1,)))
    assert [tag for tag, _ in parsed.elements] == ["div", "table", "thead", "tr", "th", "th", "tbody", "tr", "td", "td"]
    assert parsed.elements[0][1] == {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": "Some <b>"}
    assert [attributes.get("class") for tag, attributes in parsed.elements if tag == "td"] == [None, "number"]
    assert [text for text in parsed.texts if text] == ["name", "n", "<x>", "1"]


def test_a_figure_cannot_end_its_script():
    name = "</script><script>alert(1)</script>"
    parsed = Parsed(figure(go.Figure(go.Bar(name=name, x=[1, 2])), "a caption"))
    scripts = [text for (tag, _), text in zip(parsed.elements, parsed.texts, strict=True) if tag == "script"]
    assert len(scripts) == 1
    assert json.loads(scripts[0])["data"][0]["name"] == name


def test_a_document_allows_its_own_scripts_alone():
    page = document("A <title>", [("one", "One", element("p", "text"))], element("h1", "A"))
    parsed = Parsed(page)
    policies = [a["content"] for tag, a in parsed.elements if a.get("http-equiv") == "Content-Security-Policy"]
    scripts = [text for (tag, _), text in zip(parsed.elements, parsed.texts, strict=True) if tag == "script"]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert len(scripts) == 2
    allowed = f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}'"
    assert policies == [f"default-src 'none'; {allowed}; style-src 'unsafe-inline'; img-src data: blob:"]
    assert "\r" not in page
    links = {value for _, attributes in parsed.elements for name, value in attributes.items() if name in ("src", "href")}
    assert links == {"#one"}
