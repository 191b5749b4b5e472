"""A paper's text is read from a file, a tar, a tar of papers; mathematics stays, with the paper's own macros written out."""

import gzip
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openherd.data.dedup_urls import DedupUrlsConfig, key_of
from openherd.data.latex import arxiv_address, papers_of, read_latex, with_inputs, without_comments
from openherd.data.latex_macros import braced, expanded, own_macros
from openherd.data.latex_text import latex_text
from openherd.data.pages import DamageError, Page, Place, all_found
from source_files import BODY, ONE, PAPER, tar

TEXT = r"""On $\mathbb{R}^n$

We show $x^2 \in \mathbb{R}$.

Intro

Let $\left\|x\right\|$ be small, as in; see \ref{s}.
50% of it.

\begin{equation} \operatorname{Tr} A = 1 \end{equation}"""


def read(content, name, start=0):
    return list(all_found(read_latex(io.BytesIO(content), name, f"file:///{name}", Place(0, start))))


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_one_paper(mode):
    (page,) = read(tar(PAPER, mode), "2301.00001.tar.gz")
    assert page.content.decode() == TEXT
    assert (page.url, page.title, page.attribution) == ("https://arxiv.org/abs/2301.00001", r"On $\mathbb{R}^n$", "A. Böhm, C. Dee")
    assert (page.source, page.content_type, page.drop) == ("academic", "text/plain; charset=utf-8", None)


def test_a_tar_of_papers_as_arxiv_gives_them():
    simple = rb"\documentstyle{article}\begin{document}Old text with $x$.\end{document}"
    bulk = tar(
        {
            "9901/astro-ph9901001.gz": gzip.compress(tar(PAPER)),
            "9901/astro-ph9901002.gz": gzip.compress(simple),
            "9901/astro-ph9901003.pdf": b"%PDF-1.4",
            "9901/astro-ph9901004.gz": gzip.compress(simple)[:-9],
            "9901/astro-ph9901005.gz": gzip.compress(tar({"README": b"nothing here"})),
            "9901/astro-ph9901006.gz": gzip.compress(b"%PDF-1.4"),
            "9901/astro-ph9901007.gz": gzip.compress(
                rb"\documentclass{article}\begin{document}% nothing" + b"\n" + rb"\end{document}"
            ),
        }
    )
    found = read(bulk, "arXiv_src_9901_001.tar")
    assert [page.url for page in found if isinstance(page, Page)] == [
        f"https://arxiv.org/abs/astro-ph/990100{i}" for i in (1, 2, 3, 5, 6, 7)
    ]
    assert [page.content.decode() for page in found if isinstance(page, Page) and not page.drop] == [TEXT, "Old text with $x$."]
    reasons = [page.drop.reason for page in found if isinstance(page, Page) and page.drop]
    assert reasons == ["content type", "no LaTeX", "content type", "empty"]
    assert ["astro-ph9901004.gz: invalid gzip (cut short)" in x.found for x in found if isinstance(x, DamageError)] == [True]
    for i in range(len(found) + 1):
        assert [str(x) for x in read(bulk, "arXiv_src_9901_001.tar", i)] == [str(x) for x in found[i:]]


def test_a_tar_that_is_cut_off_gives_what_is_whole():
    simple = gzip.compress(rb"\documentclass{article}\begin{document}Text.\end{document}")
    bulk = tar({f"2301/2301.0000{i}.gz": simple for i in range(4)})
    found = read(bulk[:1_550], "arXiv_src_2301_001.tar")
    assert [page.url for page in found if isinstance(page, Page)] == ["https://arxiv.org/abs/2301.00000"]
    assert isinstance(found[-1], DamageError)


def test_several_papers_and_parts_of_none():
    other = rb"\documentclass{article}\begin{document}Other.\end{document}"
    found = read(tar({"a/main.tex": BODY.encode(), "a/parts/one.tex": ONE.encode(), "b/other.tex": other}), "x.tar")
    assert [page.url for page in found] == ["file:///x.tar/a/main.tex", "file:///x.tar/b/other.tex"]
    assert len({key_of(DedupUrlsConfig(), page.url.replace("file:///", "https://a.test/")) for page in found}) == 2
    assert found[0].content.decode() == TEXT
    (plain,) = read(rb"\noindent Plain {\it words}. \bye", "x.tex")
    assert plain.content.decode().strip() == "Plain words."


def test_what_only_begins_as_an_input_does_is_none():
    body = r"""\includeonly{b,c}\begin{document}\inputencoding{latin1}\includegraphics[width=3in]{fig1.pdf}
        \includepdf[pages=1]{x.pdf}\inputminted{python}{a.py}\include{b} and \input c
        \end{document}"""
    [(_, read_paper)] = papers_of({"a.tex": body.encode(), "b.tex": b"In b", "c.tex": b"in c."}, 0, "")
    assert read_paper().content.decode().split() == ["In", "b", "and", "in", "c."]


def test_files_that_input_each_other_end():
    files = {"a.tex": r"a \input{b}", "b.tex": r"b \input{a} \input{none}"}
    assert "a" in with_inputs("a.tex", files)


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\emph{a} \textbf{b} {\it c} \unknown{d} e~f --- ``g''", "a b c d e f — “g”"),
        (r"\begin{itemize}\item one \item[x] two\end{itemize}", "- one\n- x two"),
        (r"\begin{tabular}{l|l}\hline a & $b$ \\ c & d \\\hline\end{tabular}", "a | $b$\nc | d"),
        (r"\begin{figure}\includegraphics[width=1in]{x}\caption{A \emph{cap}.}\label{f}\end{figure}", "A cap."),
        (r"a\footnote{b} c \href{http://x.org}{d} \url{http://y.org/a_b}", "a (b) c d http://y.org/a_b"),
        (r"a \begin{thebibliography}{9}\bibitem{x} A. Author.\end{thebibliography}", "a"),
        ("\\begin{verbatim}\n  x = 1  % no comment\n\\end{verbatim}", "  x = 1  % no comment"),
        ("\\begin{lstlisting}[language=C]\nint x;\n  $y$\n\\end{lstlisting}", "int x;\n  $y$"),
        (r"a \verb|\b{c}| and \lstinline!d_e!", r"a \b{c} and d_e"),
        (r"\[ a = b \] and $$c$$ and \(d\)", "\\[ a = b \\]\nand\n$$c$$\nand \\(d\\)"),
        (r"\begin{align*} a &= b \\ c &= d \end{align*}", r"\begin{align*} a &= b \\ c &= d \end{align*}"),
        (r"Stra\ss e, na\"{\i}ve, \'Evariste, \o", "Straße, naïve, Évariste, ø"),
        (r"\section*{One}\subsection{Two} text", "One\n\nTwo\n\ntext"),
    ],
)
def test_latex(latex, text):
    assert [line.rstrip() for line in latex_text(latex).split("\n") if line.strip()] == [x for x in text.split("\n") if x.strip()]


@pytest.mark.parametrize(
    ("definition", "used", "written"),
    [
        (r"\newcommand{\a}{x}", r"\a \ab", r"x \ab"),
        (r"\renewcommand\a[2]{#2 of #1}", r"\a{p}{q}", "q of p"),
        (r"\newcommand{\a}[2][z]{#1#2}", r"\a{p} \a[y]{p}", "zp yp"),
        (r"\def\a#1#2{(#1,#2)}", r"\a{p}q \a\x y", r"(p,q) (\x,y)"),
        (r"\newcommand{\a}{\b}\newcommand{\b}{y}", r"$\a$", "$y$"),
        (r"\newcommand{\a}{\mathbb{R}}", r"$\a x$", r"$\mathbb{R} x$"),
        (r"\newcommand{\a}{\alpha}", r"$\a{}x \a y$", r"$\alpha{}x \alpha y$"),
        (r"\newcommand{\beq}{\begin{equation}}", r"\beq x", r"\begin{equation} x"),
    ],
)
def test_macros_are_written_out(definition, used, written):
    rest, macros = own_macros(definition + used)
    assert rest == used
    assert expanded(rest, macros) == written


def test_macros_that_call_themselves_end():
    for body in (r"\a", r"\a\a", r"x\b"):
        rest, macros = own_macros(rf"\newcommand{{\a}}{{{body}}}\newcommand{{\b}}{{\a\a}}" + r"\a " * 50)
        assert len(expanded(rest, macros)) < 100_000


def test_comments():
    text = "a % b\n% c\n  % d\ne\\% f\n\\begin{verbatim}\n% g\n\\end{verbatim}\nh \\\\% i"
    assert without_comments(text) == "a \ne\\% f\n\\begin{verbatim}\n% g\n\\end{verbatim}\nh \\\\"


def test_braces():
    assert braced(r"{a{b}\}c}d", 0) == 9
    assert braced("[a{]}b]c", 0) == 7
    assert braced("{a", 0) == -1


PIECES = r"\a { } $ $$ \[ \] & % # [ ] \begin{x} \end{x} \begin{equation} \item \\ \newcommand a é ~"


@settings(max_examples=60)
@given(st.lists(st.sampled_from([*PIECES.split(), "\n"])))
def test_latex_of_any_kind_is_read_or_refused_as_one_paper(pieces):
    (page,) = read(("\\begin{document}" + " ".join(pieces)).encode(), "x.tex")
    assert isinstance(page, Page)


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("2301/2301.00001.gz", "https://arxiv.org/abs/2301.00001"),
        ("2301.00001v2.tar.gz", "https://arxiv.org/abs/2301.00001"),
        ("astro-ph9901001.gz", "https://arxiv.org/abs/astro-ph/9901001"),
        ("math.AG0601001.gz", "https://arxiv.org/abs/math.AG/0601001"),
        ("arXiv_src_0001_001.tar", ""),
        ("main.tex", ""),
    ],
)
def test_addresses_of_papers(name, address):
    assert arxiv_address(name) == address
