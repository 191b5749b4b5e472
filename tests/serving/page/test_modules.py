"""The page's modules by themselves, in the browser: Markdown, streams, preferences, what storage and files may hold."""

import json
import re

import pytest

HOSTILE = [
    "<script>window.ran = 1</script>", "<img src=x onerror=window.ran=1>", "[a](javascript:window.ran=1)", "![b](https://example.org/x.png)",
    "`<b>`", "```html\n<script>window.ran=1</script>\n```", "</code></pre><script>window.ran=1</script>",
    "> <iframe src=//example.org>",
    "- <svg onload=window.ran=1>", "# <h1 onclick=x>",
    "| <u>x</u> |\n|---|\n| <img src=x onerror=window.ran=1> |", "\u202e\u0000\ud800", "**<u>x</u>**",
]  # fmt: skip
ALLOWED = {
    "P",
    "H3",
    "H4",
    "H5",
    "H6",
    "UL",
    "OL",
    "LI",
    "BLOCKQUOTE",
    "DIV",
    "TABLE",
    "THEAD",
    "TBODY",
    "TR",
    "TH",
    "TD",
    "HR",
    "STRONG",
    "EM",
    "CODE",
    "PRE",
    "FIGURE",
    "FIGCAPTION",
    "BUTTON",
    "SVG",
    "USE",
}
EXCHANGE = {"prompt": [], "sides": [{"answers": [None, {"state": "writing", "vote": "x"}], "at": 99}]}
ODD = [
    None, 1, [], {}, {"id": 1, "exchanges": []}, {"id": "../x", "exchanges": []}, {"id": "a", "exchanges": [None, 1, {"sides": 3}]},
    {"id": "a", "system": {}, "exchanges": [EXCHANGE]},
]  # fmt: skip
SHOW = """async ([text, pieces]) => {
    const { show } = await import("./markdown.js");
    const place = document.createElement("div");
    for (const piece of pieces ?? []) show(piece, place);
    show(text, place);
    document.body.append(place);
    const tags = new Set([...place.querySelectorAll("*")].map((e) => e.tagName.toUpperCase()));
    const found = [place.innerHTML, place.textContent, [...tags]];
    place.remove();
    return [...found, window.ran ?? null];
}"""
TEXT = """# One
Some **bold**, *italic* and `code`; snake_case_name, 2 * 3 * 4, **not closed.

1. first
2. second
   - inner `x`

     more of it
   - other
3. third
```python
a = [1, 2]

b = "**no bold**"
```
after
> quoted
> > twice

- [ ] a
* b
***
Sizes:
| Name | `Size` | both |
|:-----|---:|:---:|
| a \\| b | **2** | x |
| c |
|---|
# Closed ##
## Not#closed#
~~~
open"""


@pytest.fixture(scope="module")
def blank(browser, server):
    """A page whose modules can be imported."""
    page = browser.new_page()
    page.goto(server.address)
    yield page
    page.close()


def test_markdown(blank):
    html, *_ = blank.evaluate(SHOW, [TEXT, None])
    plain = re.sub("<figcaption>.*?</figcaption>", "", html)
    assert plain.replace(' class="code"', "").replace(' tabindex="0"', "").replace(' dir="auto"', "").replace(
        ' class="table"', ""
    ) == (
        "<h3>One</h3>"
        "<p>Some <strong>bold</strong>, <em>italic</em> and <code>code</code>; snake_case_name, 2 * 3 * 4, **not closed.</p>"
        '<ol start="1"><li><p>first</p></li><li><p>second</p><ul><li><p>inner <code>x</code></p><p>more of it</p></li>'
        "<li><p>other</p></li></ul></li><li><p>third</p></li></ol>"
        '<figure><pre><code>a = [1, 2]\n\nb = "**no bold**"</code></pre></figure>'
        "<p>after</p><blockquote><p>quoted</p><blockquote><p>twice</p></blockquote></blockquote>"
        "<ul><li><p>[ ] a</p></li><li><p>b</p></li></ul><hr><p>Sizes:</p>"
        '<div tabindex="0"><table><thead><tr><th>Name</th><th class="right"><code>Size</code></th>'
        '<th class="center">both</th></tr></thead>'
        '<tbody><tr><td>a | b</td><td class="right"><strong>2</strong></td><td class="center">x</td></tr>'
        '<tr><td>c</td><td class="right"></td><td class="center"></td></tr>'
        '<tr><td>---</td><td class="right"></td><td class="center"></td></tr></tbody></table></div>'
        "<h3>Closed</h3><h4>Not#closed#</h4><figure><pre><code>open</code></pre></figure>"
    )


def test_a_growing_text_ends_as_the_whole(blank):
    whole = blank.evaluate(SHOW, [TEXT, None])
    assert blank.evaluate(SHOW, [TEXT, [TEXT[:i] for i in range(len(TEXT))]]) == whole


def test_a_models_text_stays_text(blank):
    for text in HOSTILE:
        # A lone surrogate cannot be sent to the browser as it is.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        _, shown, tags, ran = blank.evaluate(SHOW, [text, None])
        assert ran is None
        assert set(tags) <= ALLOWED
        for part in ("script>", "<img src=x", "javascript:", "<iframe", "<svg", "<h1", "<u>"):
            assert (part in shown) == (part in text)


def test_each_block_has_the_direction_of_its_letters(blank):
    text = "שלום עולם!\n\nEnglish.\n\n- רשימה.\n- English.\n\n> ציטוט.\n\n```\ncode\n```"
    found = blank.evaluate(
        """async (text) => {
            const { show } = await import("./markdown.js");
            const place = document.querySelector("#thread");
            show(text, place);
            const found = [...place.children].map((e) => getComputedStyle(e).direction);
            place.replaceChildren();
            return found;
        }""",
        text,
    )
    assert found == ["rtl", "ltr", "rtl", "rtl", "ltr"]


def test_markdown_ends(blank):
    n = 1_000_000  # what takes the square of these takes half an hour
    long = ("# a" + " " * n + "b", "# " + "#" * n + "c", "|" + "-" * n + "|\n|" + "-" * n + "x", "|a" * n)
    for text in (*long, "> " * 5000, "- " * 5000, "`" * 20000, "*a" * 10000, "#" * 9, "\n" * 5000, "1. x\n" * 3000, "[" * 9999):
        _, shown, _, _ = blank.evaluate(SHOW, [text, None])
        assert shown is not None


def test_events_in_any_pieces(blank):
    text = 'data: {"a": "ü€😀"}\n\n: comment\n\ndata:x\r\n\r\ndata: one\ndata: two\n\nevent: e\ndata: last\n\ndata: cut off'
    found = blank.evaluate(
        """async (text) => {
            const { events } = await import("./api.js");
            const bytes = new TextEncoder().encode(text);
            const all = [];
            for (const size of [1, 2, 3, 7, 1000]) {
                const pieces = [];
                for (let i = 0; i < bytes.length; i += size) pieces.push(bytes.slice(i, i + size));
                const stream = new ReadableStream({ start(c) { pieces.forEach((p) => c.enqueue(p)); c.close(); } });
                const found = [];
                for await (const data of events(stream)) found.push(data);
                all.push(found);
            }
            return all;
        }""",
        text,
    )
    assert found == [['{"a": "ü€😀"}', "x", "one\ntwo", "last"]] * 5


def test_preferences(blank):
    """Up is chosen over none and down, none over down; an edited answer over its source; only answers to the same messages."""

    def answer(text: str, vote: int = 0, edited: int | None = None) -> dict:
        return {
            "model": "m",
            "text": text,
            "tokens": None,
            "state": "stop",
            "error": "",
            "field": "",
            "vote": vote,
            "edited": edited,
            "speed": None,
        }

    def side(*answers: dict, at: int = 0) -> dict:
        return {"answers": list(answers), "at": at}

    first = {
        "prompt": "p",
        "sides": [side(answer("a", 1), answer("b", -1), answer("c")), side(answer("d"), answer("D", 0, 0), answer("", 1))],
    }
    second = {"prompt": "q", "sides": [side(answer("x", 1)), side(answer("y", -1))]}
    conversation = {"id": "i", "created": 0, "updated": 0, "system": "s", "draft": "", "exchanges": [first, second]}
    pairs, ratings = blank.evaluate(
        "async (c) => { const m = await import('./conversation.js'); return [m.pairsOf(c), m.ratingsOf(c)]; }", conversation
    )
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]
    assert {(pair["chosen"][0]["content"], pair["rejected"][0]["content"]) for pair in pairs} == {
        ("a", "b"), ("a", "c"), ("a", "d"), ("a", "D"), ("c", "b"), ("d", "b"), ("D", "b"), ("D", "d"),
    }  # fmt: skip
    assert all(pair["prompt"] == prompt for pair in pairs)
    assert [pair["edited"] for pair in pairs if pair["chosen"][0]["content"] == "D" and pair["rejected"][0]["content"] == "d"] == [
        True
    ]
    assert [(row["completion"][0]["content"], row["label"]) for row in ratings] == [
        ("a", True),
        ("b", False),
        ("x", True),
        ("y", False),
    ]
    assert ratings[3]["prompt"][2] == {"role": "assistant", "content": "d"}


@pytest.mark.parametrize("given", ODD)
def test_what_is_read_back_is_whole_or_nothing(blank, given):
    found = blank.evaluate("async (text) => (await import('./conversation.js')).restored(JSON.parse(text))", json.dumps(given))
    if found is None:
        return
    assert all(side["answers"][side["at"]]["text"] == "" for e in found["exchanges"] for side in e["sides"])
    assert all(a["state"] in ("stop", "broken") for e in found["exchanges"] for side in e["sides"] for a in side["answers"])
    assert isinstance(found["system"], str)
