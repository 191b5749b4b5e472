"""Markup of a self-contained page: elements that escape by default, tables, figures, style and script.

Text is escaped unless it is `Html`, so that data can never become markup. The page's content security policy forbids every request
and every script but our two, named by their digests: it holds even where a figure library would like to fetch something.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

VOID = ("br", "meta")


class Html(str):
    """Markup that goes into the page as it is."""


def join(parts: Iterable[object]) -> Html:
    """Parts one after another; what is not Html is escaped, None is left out."""
    return Html("".join(p if isinstance(p, Html) else html.escape(str(p)) for p in parts if p is not None))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """One element; `class_` stands for class and `aria_label` for aria-label; an attribute that is None is left out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{written}>" + ("" if tag in VOID else f"{join(children)}</{tag}>"))


def paragraph(*children: object) -> Html:
    """One paragraph."""
    return element("p", *children)


def code(text: object) -> Html:
    """Text in fixed width, as names and digests are set."""
    return element("code", text)


def prose(text: object) -> Html:
    """Text in a cell that breaks into lines; other cells do not."""
    return element("div", text, class_="prose")


def section(name: str, title: str, *children: object) -> Html:
    """One section of the page, to which the list of sections links."""
    return element("section", element("h2", title), *children, id=name)


def details(summary: object, *children: object) -> Html:
    """What opens on demand, by mouse or keyboard."""
    return element("details", element("summary", summary), *children)


def table(
    caption: str, head: Sequence[object], rows: Iterable[Sequence[object]], right: Iterable[int] = (), stacked: bool = False
) -> Html:
    """A table that scrolls inside its own box; the columns `right` hold numbers.

    A `stacked` one sets its cells one below the other where the page is narrow.
    """
    right = set(right)

    def line(tag: str, cells: Sequence[object]) -> Html:
        labels = head if stacked else [None] * len(cells)
        looks = ["number" if i in right else None for i in range(len(cells))]
        named = zip(cells, labels, looks, strict=True)
        return element("tr", *(element(tag, cell, class_=look, data_label=label) for cell, label, look in named))

    body = element("tbody", *(line("td", row) for row in rows))
    inner = element("table", element("thead", line("th", head)), body, class_="stacked" if stacked else None)
    return element("div", inner, class_="scroll", tabindex=0, role="region", aria_label=caption)


def tiles(facts: Iterable[tuple[str, str]]) -> Html:
    """The few numbers that matter most, large."""
    return element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in facts), class_="tiles")


def figure(drawing: "Figure", caption: str) -> Html:
    """A Plotly figure with its caption; the script at the end of the page draws it."""
    data = Html(drawing.to_json().replace("<", "\\u003c"))  # so that no text in it can end the script element
    plot = element("div", class_="plot", role="img", aria_label=caption, style=f"height:{drawing.layout.height or 400}px")
    return element("figure", plot, element("script", data, type="application/json"), element("figcaption", caption))


def side_by_side(*children: object) -> Html:
    """Blocks in columns where the page is wide enough, else one below the other."""
    return element("div", *children, class_="columns")


def document(title: str, sections: Sequence[tuple[str, str, Html]], header: Html) -> str:
    """The whole page: `sections` are (name, title, content)."""
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs().replace("\r\n", "\n"), SCRIPT]
    digests = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    policy = f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data: blob:"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(STYLE)),
    )
    links = element("nav", *(element("a", name, href=f"#{anchor}") for anchor, name, _ in sections), aria_label="Sections")
    body = element(
        "body",
        element("header", header),
        links,
        element("main", *(section(*s) for s in sections)),
        element("noscript", paragraph("The figures need JavaScript; the tables hold their numbers.")),
        *(element("script", Html(s)) for s in scripts),
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


STYLE = """
:root { color-scheme: light dark; --paper: #fbfbfa; --panel: #ffffff; --ink: #1c2025; --muted: #5a6470; --line: #dcdfe4;
  --shade: #1c202566; --accent: #0067a3; --tint-0: #cfe5f5; --tint-1: #fbe0cc; --tint-2: #cdeee2; --tint-3: #f3dcea; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --panel: #1b1f25; --ink: #e5e8eb; --muted: #9ba5b1; --line: #303740;
  --shade: #e5e8eb59; --accent: #67b7e8; --tint-0: #1d4460; --tint-1: #5e3617; --tint-2: #14503f; --tint-3: #573049; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 70rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .5rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1.05rem; margin: 1.8rem 0 .3rem; }
p { margin: .5rem 0; max-width: 46rem; }
header p { color: var(--muted); }
header p.lead { color: var(--ink); }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin-top: 1.2rem; }
code, pre, .tokens { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: .86em; }
pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: .75rem; margin: 1.2rem 0; }
.tiles div { padding: .6rem .8rem; }
dt { color: var(--muted); font-size: .85rem; }
.tiles dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: .8rem 0; }
.scroll { background: linear-gradient(90deg, var(--panel) 30%, transparent) 0 0 / 2.5rem 100% no-repeat local,
  linear-gradient(270deg, var(--panel) 30%, transparent) 100% 0 / 2.5rem 100% no-repeat local,
  radial-gradient(farthest-side at 0 50%, var(--shade), transparent) 0 0 / .8rem 100% no-repeat scroll,
  radial-gradient(farthest-side at 100% 50%, var(--shade), transparent) 100% 0 / .8rem 100% no-repeat scroll, var(--panel); }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .75rem; white-space: nowrap; }
th { color: var(--muted); font-weight: 600; }
tbody tr { border-top: 1px solid var(--line); }
td > pre, .prose { min-width: 14rem; white-space: pre-wrap; }
.place { min-width: 9rem; white-space: normal; overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; }
figure, .tiles div, .tokens { background: var(--panel); }
figure, .tiles div, .scroll, .tokens { border: 1px solid var(--line); border-radius: .4rem; }
figure { margin: .8rem 0; padding: .75rem; min-width: 0; }
figcaption { color: var(--muted); font-size: .9rem; margin-top: .5rem; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(22rem, 100%), 1fr)); gap: 0 1rem; }
details { margin: .5rem 0; }
.cluster { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem; padding: .1rem .75rem .75rem; }
h4 { font-size: .9rem; font-weight: 600; margin: .8rem 0 .3rem; overflow-wrap: anywhere; }
summary { cursor: pointer; }
.tokens { white-space: pre-wrap; padding: .75rem; line-height: 1.9; }
.tokens span { border-radius: .2rem; padding: .1em 0; }
.tint-0 { background: var(--tint-0); } .tint-1 { background: var(--tint-1); } .tint-2 { background: var(--tint-2); }
.tint-3 { background: var(--tint-3); }
@media (max-width: 40rem) { .place { white-space: nowrap; }
  .stacked td::before { content: attr(data-label) " "; color: var(--muted); font: .8rem system-ui, sans-serif; }
  .stacked .number { text-align: left; } .stacked thead { display: none; } .stacked tr, .stacked td { display: block; }
  .stacked td { padding-block: .15rem; } .stacked td > pre, .stacked .prose { min-width: 0; overflow-wrap: anywhere; } }
@media print { .scroll { overflow: visible; } }
"""

# Figures carry no colours of text: those are the page's, and follow it from light to dark. A finger scrolls, it does not zoom.
SCRIPT = """
const dark = matchMedia("(prefers-color-scheme: dark)");
const touch = matchMedia("(pointer: coarse)").matches;
function draw() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  for (const plot of document.querySelectorAll(".plot")) {
    const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
    layout.font = { ...layout.font, color: colour("--ink") };
    layout.hoverlabel = { bgcolor: colour("--panel"), bordercolor: colour("--line"), font: layout.font, align: "left" };
    layout.dragmode = touch ? false : layout.dragmode;
    Plotly.react(plot, data, layout, { responsive: true, displayModeBar: false });
  }
}
draw();
dark.addEventListener("change", draw);
"""
