"""LaTeX as text by pylatexenc: mathematics verbatim, structure as lines, no commands elsewhere.

References to numbers (`\\ref{x}`) stay as they are, since the numbers are not known; what is quoted, listed or typed verbatim keeps
its lines. A command that is not known shows what it is given.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

from pylatexenc import latex2text
from pylatexenc.latexwalker import LatexWalker, get_default_latex_context_db
from pylatexenc.macrospec import EnvironmentSpec, MacroSpec

from openherd.data.latex_macros import braced, expanded, own_macros

GONE = (
    "bibliographystyle", "bibliography", "printbibliography", "vspace", "hspace", "vskip", "includegraphics", "maketitle",
    "tableofcontents", "pagestyle", "thispagestyle", "setcounter", "addtocounter", "setlength", "addtolength", "usepackage",
    "documentclass", "newcommand", "renewcommand", "providecommand", "DeclareMathOperator", "newtheorem", "index", "label",
    "date", "thanks", "affiliation", "email", "address", "pacs", "keywords", "title", "author", "hypersetup", "graphicspath",
    "definecolor", "hline", "cline", "toprule", "midrule", "bottomrule", "centering", "newpage", "clearpage", "noindent",
    "bigskip", "medskip", "smallskip", "cmidrule", "color", "rule", "institute", "numberwithin", "allowdisplaybreaks",
    "appendix", "raggedright", "qed", "phantom", "vphantom", "hphantom", "includeonly", "inputencoding", "includepdf", "includesvg",
    "includestandalone", "lstinputlisting", "inputminted",
)  # fmt: skip
ARGUMENTS = {  # of those that pylatexenc does not know, or knows otherwise
    name: arguments
    for arguments, names in {
        "*{": "bibliographystyle bibliography vspace hspace pagestyle thispagestyle index date thanks affiliation email address "
        "pacs keywords hypersetup graphicspath cline institute phantom vphantom hphantom subcaption",
        "{": "url nocite eqref cref Cref autoref pageref fbox mbox includeonly inputencoding",
        "{{": "setcounter addtocounter setlength addtolength numberwithin colorbox href texorpdfstring",
        "{{{": "definecolor multicolumn",
        "[": "item",
        "[{": "color cmidrule footnote bibitem includepdf includesvg includestandalone lstinputlisting",
        "[{{": "rule textcolor parbox inputminted",
        "[[{": "makebox",
        "*[{": "title author includegraphics usepackage documentclass caption",
        "*{{": "DeclareMathOperator",
        "*{{{": "resizebox",
        "*{[{[": "newtheorem",
        "{[{": "scalebox",
        "{[[{": "raisebox",
        "{[{{": "multirow",
    }.items()
    for name in names.split()
}
CITATIONS = (
    "cite", "citep", "citet", "citealp", "citealt", "citeauthor", "citeyear", "parencite", "textcite", "autocite", "onlinecite",
    "nocite", "footcite",
)  # fmt: skip
REFERENCES = ("ref", "eqref", "cref", "Cref", "autoref", "pageref")
HEADINGS = ("part", "chapter", "section", "subsection", "subsubsection", "paragraph", "subparagraph")
LAST = (
    "textcolor", "colorbox", "href", "multicolumn", "multirow", "resizebox", "scalebox", "raisebox", "parbox", "makebox",
    "fbox", "mbox", "url",
)  # fmt: skip
DROPPED = (
    "thebibliography", "tikzpicture", "pspicture", "picture", "comment", "CCSXML", "filecontents", "filecontents*", "titlepage",
)  # fmt: skip
MATHS = (
    "equation", "equation*", "align", "align*", "eqnarray", "eqnarray*", "gather", "gather*", "multline", "multline*",
    "displaymath", "math", "alignat", "alignat*", "flalign", "flalign*", "IEEEeqnarray", "IEEEeqnarray*", "dmath", "dmath*",
    "subequations",
)  # fmt: skip
TYPED = re.compile(  # what is set as it is typed
    r"\\begin\{(?P<name>verbatim\*?|Verbatim|lstlisting|minted|alltt)\}(?P<text>.*?)\\end\{(?P=name)\}|"
    r"\\(?:verb\*?|lstinline(?:\[[^\]]*\])?)(?P<mark>[^A-Za-z\s*{])(?P<inline>[^\n]*?)(?P=mark)",
    re.DOTALL,
)
HELD = "\ufdd2"  # ours, around the number of what is held
CODE_OPTIONS = re.compile(r"\A(?:\[[^\]\n]*\])?(?:\{[^}\n]*\})?")


def _text_of(node: Any, l2tobj: Any, place: int = -1) -> str:
    given = [a for a in (node.nodeargd.argnlist if node.nodeargd else ()) if a is not None]
    return str(l2tobj.nodelist_to_text([given[place]])).strip() if given else ""


def _environment(before: str = "\n", after: str = "\n") -> Callable[..., str]:
    return lambda node, l2tobj: f"{before}{l2tobj.nodelist_to_text(node.nodelist).strip(' ')}{after}"


def _formula(node: Any, l2tobj: Any) -> str:
    return "\n" + re.sub(r"\s*\\label\{[^{}]*\}", "", node.latex_verbatim()) + "\n"


def _captions(node: Any, l2tobj: Any) -> str:
    """Of a picture nothing but what is written under it."""
    text = l2tobj.nodelist_to_text(node.nodelist)
    return "\n" + "\n".join(line for line in text.split("\n") if line.strip()) + "\n"


def _table(node: Any, l2tobj: Any) -> str:
    text = l2tobj.nodelist_to_text(node.nodelist)
    lines = (" ".join(line.split()).strip("| ") for line in text.split("\n"))
    return "\n" + "\n".join(line for line in lines if line) + "\n"


@cache
def _contexts() -> tuple[Any, Any]:
    """How LaTeX is parsed, and how what was parsed becomes text."""
    parsing = get_default_latex_context_db()
    cites = [MacroSpec(name, "*[[{") for name in CITATIONS]
    parsing.add_context_category(
        "openherd",
        macros=[*(MacroSpec(name, arguments) for name, arguments in ARGUMENTS.items()), *cites],
        environments=[
            *(EnvironmentSpec(name, is_math_mode=True) for name in MATHS),
            *(EnvironmentSpec(name, "[{") for name in ("tabular", "array", "minipage", "wrapfigure")),
            *(EnvironmentSpec(name, "{[{") for name in ("tabular*", "tabularx")),
            *(EnvironmentSpec(name, "{") for name in ("thebibliography", "multicols")),
            *(
                EnvironmentSpec(name, "[")
                for name in ("figure", "figure*", "table", "table*", "theorem", "lemma", "proof", "definition")
            ),
        ],
        prepend=True,
    )
    showing = latex2text.get_default_latex_context_db()
    macro, environment = latex2text.MacroTextSpec, latex2text.EnvironmentTextSpec
    showing.add_context_category(
        "openherd",
        macros=[
            *(macro(name, simplify_repl="", discard=True) for name in GONE),
            *(macro(name, simplify_repl=lambda node, l2tobj: "") for name in CITATIONS),
            *(macro(name, simplify_repl=lambda node, l2tobj: node.latex_verbatim()) for name in REFERENCES),
            *(macro(name, simplify_repl=lambda node, l2tobj: f"\n\n{_text_of(node, l2tobj)}\n\n") for name in HEADINGS),
            *(macro(name, simplify_repl=lambda node, l2tobj: _text_of(node, l2tobj)) for name in LAST),
            macro("texorpdfstring", simplify_repl=lambda node, l2tobj: _text_of(node, l2tobj, 0)),
            macro("footnote", simplify_repl=lambda node, l2tobj: f" ({_text_of(node, l2tobj)})"),
            macro("caption", simplify_repl=lambda node, l2tobj: f"\n{_text_of(node, l2tobj)}\n"),
            macro("subcaption", simplify_repl=lambda node, l2tobj: f"\n{_text_of(node, l2tobj)}\n"),
            macro("item", simplify_repl=lambda node, l2tobj: f"\n- {_text_of(node, l2tobj)}".rstrip() + " "),
            macro("\\", simplify_repl="\n"),
            macro("newline", simplify_repl="\n"),
            macro("par", simplify_repl="\n\n"),
            macro("today", simplify_repl=""),
        ],
        environments=[
            *(
                environment(name, simplify_repl=_environment())
                for name in ("itemize", "enumerate", "description", "quote", "quotation", "center")
            ),
            *(
                environment(name, simplify_repl=_environment("\n\n", "\n\n"))
                for name in ("abstract", "theorem", "lemma", "proof", "definition")
            ),
            *(environment(name, simplify_repl=_table) for name in ("tabular", "tabular*", "tabularx", "longtable")),
            *(environment(name, simplify_repl=_captions) for name in ("figure", "figure*", "table", "table*", "wrapfigure")),
            *(environment(name, simplify_repl="", discard=True) for name in DROPPED),
            *(environment(name, simplify_repl=_formula) for name in MATHS),
        ],
        specials=[latex2text.SpecialsTextSpec("&", " | "), latex2text.SpecialsTextSpec("~", " ")],
        prepend=True,
    )
    return parsing, showing


def to_text(latex: str) -> str:
    """LaTeX without a preamble as text."""
    parsing, showing = _contexts()
    converter = latex2text.LatexNodes2Text(
        latex_context=showing, math_mode="verbatim", keep_comments=False, strict_latex_spaces=False
    )
    nodes, _, _ = LatexWalker(latex, latex_context=parsing, tolerant_parsing=True).get_latex_nodes()
    return str(converter.nodelist_to_text(nodes))


def latex_text(source: str) -> str:
    """A paper's text: title, then the body. Raises what pylatexenc does on what it cannot read."""
    held: list[str] = []

    def hold(match: re.Match[str]) -> str:
        held.append(match["inline"] if match["text"] is None else "\n" + CODE_OPTIONS.sub("", match["text"]).strip("\n") + "\n")
        return f"{HELD}{len(held) - 1}{HELD}"

    source = TYPED.sub(hold, source.replace("\r\n", "\n").replace(HELD, ""))
    source, macros = own_macros(source)
    head, begin, body = source.partition("\\begin{document}")
    body = (body if begin else head).partition("\\end{document}")[0]
    text = to_text(expanded(body, macros))
    text = re.sub(r"[ \t]+(?=[.,;:)\n])|(?<=\()[ \t]+", "", text)  # where a citation stood
    text = "\n".join(re.sub(r"(?<=\S)[ \t]{2,}", " ", line.rstrip()) for line in text.split("\n"))
    text = re.sub(r"^ (?=\S)", "", text, flags=re.MULTILINE)  # behind a formula or a heading
    text = re.sub(f"{HELD}(\\d+){HELD}", lambda match: held[int(match[1])], text)
    text = re.sub(r"\n{3,}", "\n\n", text).strip("\n")
    title, _ = _told(expanded(source, macros))
    return f"{title}\n\n{text}" if title and text.strip() else text


def title_of(source: str) -> tuple[str, str]:
    """Title and authors of a paper."""
    source, macros = own_macros(source)
    return _told(expanded(source, macros))


def _told(source: str) -> tuple[str, str]:
    title = authors = ""
    for match in re.finditer(r"\\(title|author)\s*(?:\[[^\]]*\])?\s*(?=\{)", source):
        end = braced(source, match.end())
        if end > 0:
            text = " ".join(to_text(re.sub(r"\\and\b", ", ", source[match.end() + 1 : end - 1])).replace(" ,", ",").split())
            if match[1] == "title":
                title = title or text
            else:
                authors = "; ".join(filter(None, (authors, text)))
    return title, authors
