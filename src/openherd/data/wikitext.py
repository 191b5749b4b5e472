"""Wikitext as text: mwparserfromhell parses it, this lays it out.

Links show their text, formulas stay TeX between dollars, code stays as it is, a table has a line a row. Of templates, which a dump
does not expand, those that only dress up text show it; all others (info boxes, citations, navigation) are left out, and with them
references, galleries, categories and headings that nothing follows.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import mwparserfromhell
from mwparserfromhell.nodes import Argument, Comment, ExternalLink, Heading, HTMLEntity, Tag, Template, Text, Wikilink

LEFT_OUT_TAGS = {
    "ref", "references", "gallery", "timeline", "imagemap", "graph", "score", "mapframe", "maplink", "templatestyles", "indicator",
    "section", "hiero", "inputbox", "categorytree", "style", "script", "noinclude", "poem.note",
}  # fmt: skip
FORMULAS = {"math", "chem", "ce"}
VERBATIM = {"syntaxhighlight", "source", "pre"}
BLOCKS = {"p", "div", "blockquote", "center", "poem", "dl", "ul", "ol", "table", "h2", "h3", "h4"}
# Templates that show one of their parameters, by number or name (English Wikipedia's; others borrow many of them).
SHOW_FIRST = """
    abbr|angbr|as written|big|block indent|blockquote|center|centered pull quote|chem2|code|codett|cquote|em|format price|formatnum|
    ipa|kbd|larger|lc|linktext|math|mono|mvar|nihongo|nobold|nobr|not a typo|nowrap|num|overline|poem|poemquote|proper name|
    quotation|quote|quote box|samp|sc|small|smallcaps|smaller|strikethrough|strong|sub|sup|text|tooltip|tt|uc|underline|val|vanchor|
    var|visible anchor|zh
"""
SHOW_SECOND = "color|colored link|font color|lang|langx|native name|nihongo2|script|transl|transliteration|wikt-lang"
SHOWN: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys((name.strip() for name in SHOW_FIRST.split("|")), ("1", "text", "quote", "content")),
    **dict.fromkeys(SHOW_SECOND.split("|"), ("2", "text")),
}
SPACED = {
    **dict.fromkeys(("snd", "spnd", "spaced ndash", "spaced en dash", "dash"), " – "),
    **dict.fromkeys(("ndash", "en dash"), "–"),
    **dict.fromkeys(("mdash", "emdash", "em dash"), "—"),
    **dict.fromkeys(("nbsp", "space"), " "),
    **dict.fromkeys(("br", "break", "clear"), "\n"),
    **dict.fromkeys(("·", "dot", "middot"), " · "),
    **dict.fromkeys(("•", "bullet"), " • "),
    "pipe": "|",
    "!": "|",
    "=": "=",
    "'": "'",
    '"': '"',
    "minus": "−",
    "times": "×",
    "pi": "π",
}
FRACTIONS = {"frac", "sfrac", "fraction", "tfrac", "dfrac"}
LISTS = {"hlist", "plainlist", "unbulleted list", "ubl", "flatlist", "bulleted list", "ordered list"}
FILES, CATEGORIES = {"file", "image", "media"}, {"category"}
FILE_KEYS, CATEGORY_KEYS = ("6", "-2"), ("14",)
FILE_OPTION = re.compile(
    r"\s*(thumb(nail)?|frame(d|less)?|border|left|right|center|none|upright(=.*)?|(\d+)?(x\d+)?px|baseline|sub|super|top|text-top|"
    r"middle|bottom|text-bottom|(alt|link|page|lang|class|start|end|thumbtime)=.*|mini(atur)?|hochkant(=.*)?|links|rechts|zentriert|"
    r"vignette|gauche|droite|derecha|izquierda|miniaturadeimagen)\s*",
    re.IGNORECASE | re.DOTALL,
)
OTHER_LANGUAGE = re.compile(r"(?:[a-z]{2,3}|simple|[a-z]{2,3}-[a-z-]+):")
QUOTES = re.compile(r"'{2,5}")
SWITCHES = re.compile(r"__[A-Z]{3,}__")
HEADING, HELD, ITEM, INDENT, TERM = "\ufdd1", "\ufdd2", "\ufdd3", "\ufdd4", "\ufdd5"  # ours while a page is laid out
OURS = re.compile("[\ufdd1-\ufdd5]")
GAPS = re.compile(r"(?<=\()[ \t]{1,9}|[ \t]{1,9}(?=\))")  # where a template stood
EMPTY_BRACKETS = re.compile(r"[ \t]?\([ \t,;:]*\)")


def wiki_text(text: str, namespaces: Mapping[str, str]) -> str:
    """A page's wikitext as text. `namespaces` are the wiki's own, by number."""
    layout = Layout(namespaces)
    laid_out = layout.nodes(mwparserfromhell.parse(OURS.sub("", text), skip_style_tags=True).nodes)
    lines = [_marked(line.rstrip()) for line in GAPS.sub("", EMPTY_BRACKETS.sub("", laid_out)).split("\n")]
    laid_out = re.sub(r"\n{3,}", "\n\n", "\n".join(_without_empty_sections(lines)))
    return re.sub(f"{HELD}(\\d+){HELD}", lambda match: layout.held[int(match[1])], laid_out).strip("\n ")


def _marked(line: str) -> str:
    """A line with the marks of a list's item in place of wikitext's."""
    rest = line.lstrip(ITEM + INDENT + TERM)
    marks = line[: len(line) - len(rest)]
    rest = re.sub(f"[ \t]*[{ITEM}{INDENT}{TERM}][ \t]*", ": ", rest.strip() if marks else rest)  # '; term : definition'
    if not marks or not rest or marks[-1] == TERM:
        return rest
    return f"{'  ' * (len(marks) - 1)}{'- ' if marks[-1] == ITEM else '  '}{rest}"


def _without_empty_sections(lines: list[str]) -> list[str]:
    """The lines without headings that neither text nor a heading of a lower level follows."""
    kept: list[str] = []
    text_follows, level_below = False, 0
    for line in reversed(lines):
        if not line.startswith(HEADING):
            text_follows = text_follows or bool(line.strip())
            kept.append(line)
        elif text_follows or level_below > int(line[1]):
            kept += ["", line[2:].strip(), ""]
            text_follows, level_below = False, int(line[1])
    return kept[::-1]


class Layout:
    """Lays out the nodes of one wiki's pages."""

    def __init__(self, namespaces: Mapping[str, str]) -> None:
        self.files = FILES | {namespaces[key].lower() for key in FILE_KEYS if key in namespaces}
        self.categories = CATEGORIES | {namespaces[key].lower() for key in CATEGORY_KEYS if key in namespaces}
        self.marks = {"li": ITEM, "dd": INDENT, "dt": TERM}
        self.held: list[str] = []  # what stays as it is

    def hold(self, text: str) -> str:
        """What stands for a text until all else is done."""
        self.held.append(text)
        return f"{HELD}{len(self.held) - 1}{HELD}"

    def nodes(self, nodes: Iterable[Any]) -> str:
        """Several, one after the other."""
        return "".join(self.node(node) for node in nodes)

    def code(self, code: Any) -> str:
        """What stands in a node."""
        return self.nodes(code.nodes) if code is not None else ""

    def node(self, node: Any) -> str:
        """One."""
        if isinstance(node, Text):
            return SWITCHES.sub("", QUOTES.sub("", str(node.value)))
        if isinstance(node, Wikilink):
            return self.link(node)
        if isinstance(node, Template):
            return self.template(node)
        if isinstance(node, Tag):
            return self.tag(node)
        if isinstance(node, Heading):
            title = " ".join(self.code(node.title).split())
            return f"\n{HEADING}{node.level}{title}\n" if title else ""
        if isinstance(node, ExternalLink):
            return self.code(node.title) if node.title is not None else "" if node.brackets else str(node.url)
        if isinstance(node, HTMLEntity):
            return _entity(node)
        if isinstance(node, Argument):
            return self.code(node.default)
        assert isinstance(node, Comment)
        return ""

    def link(self, node: Wikilink) -> str:
        """A link's text, a picture's caption; nothing of a category or of the same page in another language."""
        title = str(node.title).strip()
        prefix = title.partition(":")[0].strip().lower() if ":" in title else ""
        if prefix in self.files:
            return self.caption(node)
        if prefix in self.categories or (OTHER_LANGUAGE.match(title) and node.text is None):
            return ""
        return self.code(node.text) if node.text is not None else title.removeprefix(":")

    def caption(self, node: Wikilink) -> str:
        """What is written under a picture: the last of its parts, unless that is a size or the like."""
        nodes: list[Any] = [] if node.text is None else list(node.text.nodes)
        last = next((i for i in reversed(range(len(nodes))) if isinstance(nodes[i], Text) and "|" in nodes[i].value), -1)
        begin = str(nodes[last].value).rpartition("|")[2] if last >= 0 else ""
        if last == len(nodes) - 1 and (not begin.strip() or FILE_OPTION.fullmatch(begin)):
            return ""
        if last < 0 and len(nodes) == 1 and FILE_OPTION.fullmatch(str(nodes[0])):
            return ""
        return f"\n{(begin + self.nodes(nodes[last + 1 :])).strip()}\n"

    def template(self, node: Template) -> str:
        """What a template shows of its parameters; nothing of one that is not known."""
        name = " ".join(str(node.name).replace("_", " ").split()).lower().removeprefix("template:")
        if name in SPACED:
            return SPACED[name]

        def shown(key: str) -> str:
            return self.code(node.get(key).value).strip() if node.has(key) else ""

        if name in FRACTIONS:
            parts = [shown(key) for key in ("1", "2", "3")]
            whole, top, bottom = parts if parts[2] else ("", *parts[:2]) if parts[1] else ("", "1", parts[0])
            return f"{whole} {top}/{bottom}".strip()
        if name in ("convert", "cvt"):
            return f"{shown('1')} {shown('2')}".strip()
        if name in ("as of", "since"):
            return " ".join(filter(None, ("As of", *(shown(key) for key in ("1", "2", "3")))))
        if name in LISTS:
            items = [self.code(p.value).strip() for p in node.params if not p.showkey]
            return "\n" + "\n".join(items) + "\n"
        if name.startswith("lang-"):
            return shown("1")
        return next((text for key in SHOWN.get(name, ()) if (text := shown(key))), "")

    def tag(self, node: Tag) -> str:
        """A tag, in HTML or as wikitext's own marks."""
        name = str(node.tag).strip().lower()
        if name in LEFT_OUT_TAGS:
            return ""
        if name in FORMULAS:
            formula = str(node.contents or "").strip()
            if not formula:
                return ""
            formula = formula if name == "math" else f"\\ce{{{formula}}}"
            shown_alone = node.has("display") and "block" in str(node.get("display").value)
            return f"\n{self.hold(f'$${formula}$$')}\n" if shown_alone else self.hold(f"${formula}$")
        if name in VERBATIM:
            return f"\n{self.hold(str(node.contents or '').strip(chr(10)))}\n"
        if name == "nowiki":
            return self.hold(str(node.contents or ""))
        if name in self.marks and node.wiki_markup:
            return self.marks[name]
        if name in ("br", "hr"):
            return "\n"
        if name == "table":
            return self.table(node)
        inside = self.code(node.contents)
        if name == "li":
            return f"\n- {inside.strip()}"
        return f"\n{inside.strip()}\n" if name in BLOCKS else inside

    def table(self, node: Tag) -> str:
        """A table, a row a line."""
        lines: list[str] = []
        rows: list[Any] = list(node.contents.nodes) if node.contents is not None else []
        for row in rows:
            kind = str(row.tag).lower() if isinstance(row, Tag) else ""
            if kind in ("tr", "thead", "tbody"):
                cells = [c for c in row.contents.nodes if isinstance(c, Tag) and str(c.tag).lower() in ("td", "th")]
                lines.append(" | ".join(" ".join(self.code(cell.contents).split()) for cell in cells))
            elif kind in ("td", "th"):  # of the first row, which needs no mark of its own
                cell = " ".join(self.code(row.contents).split())
                if cell.startswith("+") and not lines:  # the caption
                    lines += [cell[1:].strip(), ""]
                    continue
                lines[-1:] = [f"{lines[-1]} | {cell}" if lines and lines[-1:] != [""] else cell]
            elif kind == "caption":
                lines.append(" ".join(self.code(row.contents).split()))
                lines.append("")
        return "\n" + "\n".join(line for line in lines if line.strip(" |")) + "\n"


def _entity(node: HTMLEntity) -> str:
    try:
        return str(node.normalize()).replace("\xa0", " ")
    except (ValueError, OverflowError):
        return ""
