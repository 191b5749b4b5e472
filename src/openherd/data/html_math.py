"""Mathematics of HTML pages as LaTeX: what the author wrote where the page still has it, else MathML put back into LaTeX.

KaTeX, MathJax, LaTeXML and MediaWiki leave the source in an annotation, in `alttext`, in a script or in an image's alternative
text. Bare MathML is translated here: of the two Python packages for it one is an XSLT with the last release in 2019, the other
leaves out tables, fences, and half of the symbols.
"""

import re
import unicodedata
from functools import lru_cache
from typing import Any

MATHEMATICAL = (
    "ΘΛΞΠΣΥΦΨΩϑϕϖϱϵ∇∈∉∋∏∐∑±∓×÷⋅·∗∘∙√∝∞∠∣∤∥∦∧∨∩∪∫∬∭∮∴∵∼≃≅≈≠≡≤≥≪≫≺≻⊂⊃⊄⊆⊇⊈"
    "⊊⊕⊖⊗⊘⊙⊢⊣⊤⊥⊨⋀⋁⋂⋃⋆⋮⋯⋰⋱…←↑→↓↔↦⇐⇒⇔⟵⟶⟷⟸⟹⟺⟨⟩⌈⌉⌊⌋‖ℏℓℑℜ℘ℵ†‡′″∖≔↪↠⇌△□◊♯♭⊔⊓⟦⟧"
)
COMMANDS = (
    "Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega vartheta phi varpi varrho epsilon nabla in notin ni prod coprod sum pm mp "
    "times div cdot cdot ast circ bullet surd propto infty angle mid nmid parallel nparallel wedge vee cap cup int iint iiint "
    "oint therefore because sim simeq cong approx neq equiv leq geq ll gg prec succ subset supset nsubset subseteq supseteq "
    "nsubseteq subsetneq oplus ominus otimes oslash odot vdash dashv top bot models bigwedge bigvee bigcap bigcup star vdots "
    "cdots iddots ddots ldots leftarrow uparrow rightarrow downarrow leftrightarrow mapsto Leftarrow Rightarrow "
    "Leftrightarrow longleftarrow longrightarrow longleftrightarrow Longleftarrow Longrightarrow Longleftrightarrow langle "
    "rangle lceil rceil lfloor rfloor | hbar ell Im Re wp aleph dagger ddagger prime prime\\prime setminus coloneqq "
    "hookrightarrow twoheadrightarrow rightleftharpoons triangle square lozenge sharp flat sqcup sqcap llbracket "
    "rrbracket"
)
SYMBOLS = {
    **{
        chr(start + i): "\\" + name
        for start, names in (
            (0x3B1, "alpha beta gamma delta varepsilon zeta eta theta iota kappa lambda mu nu xi o pi rho varsigma sigma tau "
             "upsilon varphi chi psi omega"),
            (0x393, "Gamma Delta"),
            (0x2200, "forall complement partial exists nexists emptyset"),
        )
        for i, name in enumerate(names.split())
    },
    **{
        symbol: "\\" + name
        for symbol, name in zip(
            MATHEMATICAL,
            COMMANDS.split(),
            strict=True,
        )
    },
    "−": "-", "\u2061": "", "\u2062": "", "\u2063": "", "\u2064": "", "\xa0": " ",
    "{": "\\{", "}": "\\}", "%": "\\%", "#": "\\#", "&": "\\&", "$": "\\$",
}  # fmt: skip
OVER = {
    "^": "hat", "ˆ": "hat", "~": "tilde", "˜": "tilde", "¯": "bar", "‾": "bar", "―": "overline", "_": "overline", "→": "vec",
    "⃗": "vec", "˙": "dot", ".": "dot", "¨": "ddot", "⏞": "overbrace", "ˇ": "check", "˘": "breve",
}  # fmt: skip
UNDER = {"⏟": "underbrace", "_": "underline", "̲": "underline", "‾": "underline"}
FUNCTION_NAMES = (
    "arccos arcsin arctan arg cos cosh cot coth csc deg det dim exp gcd hom inf ker lg lim liminf limsup ln log max min Pr sec sin "
    "sinh sup tan tanh"
)
FUNCTIONS = frozenset(FUNCTION_NAMES.split())
ALPHABETS = (
    ("DOUBLE-STRUCK", "mathbb"), ("SCRIPT", "mathcal"), ("FRAKTUR", "mathfrak"), ("BLACK-LETTER", "mathfrak"),
    ("MATHEMATICAL BOLD", "mathbf"), ("MATHEMATICAL SANS-SERIF", "mathsf"), ("MATHEMATICAL MONOSPACE", "mathtt"),
    ("MATHEMATICAL ITALIC", "mathit"),
)  # fmt: skip
VARIANTS = {
    "double-struck": "mathbb",
    "bold": "mathbf",
    "script": "mathcal",
    "fraktur": "mathfrak",
    "sans-serif": "mathsf",
    "normal": "mathrm",
}
TEX = re.compile(r"(?:application/x-|text/|application/)?(?:la)?tex\b", re.IGNORECASE)
COMMAND_END = re.compile(r"\\[A-Za-z]+\Z")
DEEPEST = 100  # levels of MathML; what lies deeper is taken as text


def joined(parts: list[str]) -> str:
    """LaTeX in a row: a space where a command would run into a letter."""
    out = ""
    for part in parts:
        if part and part[0].isalpha() and COMMAND_END.search(out):
            out += " "
        out += part
    return out


@lru_cache(maxsize=4096)
def symbol(character: str) -> str:
    """A character as LaTeX: a command where it has one, a letter of Unicode's mathematical alphabets in its alphabet."""
    if character in SYMBOLS or character.isascii():
        return SYMBOLS.get(character, character)
    plain = unicodedata.normalize("NFKC", character)
    name = unicodedata.name(character, "")
    if len(plain) == 1 and plain != character:
        plain = SYMBOLS.get(plain, plain)
        alphabet = next((alphabet for words, alphabet in ALPHABETS if words in name), None)
        if alphabet:
            return f"\\{alphabet}{grouped(plain)}" if alphabet != "mathit" else plain
    return character


def symbols(text: str) -> str:
    """Characters as LaTeX."""
    return joined([symbol(character) for character in text])


def grouped(tex: str) -> str:
    """LaTeX as one argument."""
    return "{" + tex + "}"


def children(node: Any) -> list[Any]:
    """The child elements."""
    found, child = [], node.first_child
    while child is not None:
        if child.is_element_node:
            found.append(child)
        child = child.next
    return found


def token(node: Any, tag: str) -> str:
    """An identifier, number, operator or text."""
    text = " ".join(node.text(deep=True).split()) if tag != "mtext" else node.text(deep=True).replace("\xa0", " ")
    if tag == "mtext" or tag == "ms":
        return r"\text{" + text + "}" if text.strip() else " "
    if text in FUNCTIONS:
        return "\\" + text
    tex = symbols(text)
    variant = VARIANTS.get((node.attributes.get("mathvariant") or "").lower())
    if tag == "mi" and variant:
        return f"\\{variant}{grouped(tex)}"
    if tag == "mi" and len(text) > 1 and text.isalpha() and text.isascii():
        return r"\operatorname" + grouped(tex)
    return tex


def scripts(parts: list[str], tag: str) -> str:
    """Sub- and superscripts, and what stands over and under."""
    base, *rest = [*parts, "", "", ""][: 3 if tag in ("msubsup", "munderover") else 2]
    if tag == "mover" and rest[0] in OVER_TEX:
        return f"\\{OVER_TEX[rest[0]]}{grouped(base)}"
    if tag == "munder" and rest[0] in UNDER_TEX:
        return f"\\{UNDER_TEX[rest[0]]}{grouped(base)}"
    if len(base) > 1 and not re.fullmatch(r"\\[A-Za-z]+|\\[a-z]+\{[^{}]*\}", base):
        base = grouped(base)
    if tag in ("msubsup", "munderover"):
        return f"{base}_{grouped(rest[0])}^{grouped(rest[1])}"
    if tag in ("msup", "mover") and set(rest[0].split("\\")) == {"", "prime"}:
        return base + "'" * rest[0].count("prime")
    return f"{base}{'_' if tag in ('msub', 'munder') else '^'}{grouped(rest[0])}"


OVER_TEX = {SYMBOLS.get(symbol, symbol): name for symbol, name in OVER.items()}
UNDER_TEX = {SYMBOLS.get(symbol, symbol): name for symbol, name in UNDER.items()}


def fenced(node: Any, parts: list[str]) -> str:
    """The old `mfenced`: brackets and separators are attributes."""
    opening, closing = (SYMBOLS.get(x, x) for x in (node.attributes.get("open") or "(", node.attributes.get("close") or ")"))
    marks = (node.attributes.get("separators") or ",").replace(" ", "") or ","
    inside = "".join(part + (marks[min(i, len(marks) - 1)] if i < len(parts) - 1 else "") for i, part in enumerate(parts))
    return joined([f"\\left{opening} ", inside, f" \\right{closing}"])


def multiscripts(nodes: list[Any], depth: int) -> str:
    """Indices on both sides of a base."""
    after: list[str] = []
    before: list[str] = []
    side = after
    for node in nodes[1:]:
        if node.tag == "mprescripts":
            side = before
        else:
            side.append("" if node.tag == "none" else mathml_latex(node, depth))

    def pairs(found: list[str]) -> str:
        lower, upper = "".join(found[::2]), "".join(found[1::2])
        return (f"_{grouped(lower)}" if lower else "") + (f"^{grouped(upper)}" if upper else "")

    base = mathml_latex(nodes[0], depth) if nodes else ""
    return ("{}" + pairs(before) if before else "") + base + pairs(after)


def mathml_latex(node: Any, depth: int = 0) -> str:
    """A MathML element as LaTeX."""
    tag = node.tag.rpartition(":")[2]
    if tag in ("mi", "mn", "mo", "mtext", "ms"):
        return token(node, tag)
    if tag == "mspace":
        return " "
    if tag in ("annotation", "annotation-xml", "mphantom", "none", "mprescripts"):
        return ""
    if depth >= DEEPEST:
        return symbols(" ".join(node.text(deep=True).split()))
    nodes = children(node)
    if tag == "mmultiscripts":
        return multiscripts(nodes, depth + 1)
    if tag == "semantics":
        return mathml_latex(nodes[0], depth + 1) if nodes else ""
    parts = [mathml_latex(child, depth + 1) for child in nodes]
    if tag == "mfrac":
        return r"\frac" + "".join(grouped(part) for part in [*parts, "", ""][:2])
    if tag == "msqrt":
        return r"\sqrt" + grouped(joined(parts))
    if tag == "mroot":
        return rf"\sqrt[{[*parts, '', ''][1]}]" + grouped([*parts, ""][0])
    if tag in ("msup", "msub", "msubsup", "munder", "mover", "munderover"):
        return scripts(parts, tag)
    if tag == "mtable":
        return r"\begin{matrix}" + r" \\ ".join(parts) + r"\end{matrix}"
    if tag in ("mtr", "mlabeledtr"):
        return " & ".join(parts)
    if tag == "mfenced":
        return fenced(node, parts)
    if not nodes:
        return symbols(" ".join(node.text(deep=False).split()))
    return joined(parts)


def annotation(node: Any) -> str | None:
    """The LaTeX that a `math` element was made from, if it says so."""
    for child in node.css("annotation"):
        if TEX.match(child.attributes.get("encoding") or ""):
            return child.text(deep=True)
    return node.attributes.get("alttext")


def delimited(tex: str, display: bool) -> str:
    """LaTeX between dollar signs, on one line of text."""
    tex = " ".join(tex.split())
    for prefix in (r"{\displaystyle ", r"{\textstyle "):
        if tex.startswith(prefix) and tex.endswith("}"):
            tex = tex[len(prefix) : -1].strip()
    for start, end in (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]")):
        if tex.startswith(start) and tex.endswith(end) and len(tex) >= len(start) + len(end):
            tex = tex[len(start) : len(tex) - len(end)].strip()
            display = display or start in ("$$", r"\[")
            break
    if not tex:
        return ""
    return f"$${tex}$$" if display else f"${tex}$"


def formula(node: Any) -> str:
    """A `math` element as LaTeX between dollar signs."""
    tex = annotation(node)
    display = node.attributes.get("display") == "block" or node.attributes.get("mode") == "display"
    return delimited(tex if tex and tex.strip() else mathml_latex(node), display)
