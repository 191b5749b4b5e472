"""Formulas of pages as LaTeX, each way in which pages carry them; bare MathML against an independent library, there and back."""

import pytest
from latex2mathml.converter import convert
from selectolax.lexbor import LexborHTMLParser

from openherd.data.html_blocks import page_blocks
from openherd.data.html_math import DEEPEST, mathml_latex


def text(page, alt_texts=True):
    return "\n".join(block.text for block in page_blocks(page, alt_texts=alt_texts).blocks)


def latex(mathml):
    return mathml_latex(LexborHTMLParser(mathml).css_first("math"))


TEX = '<annotation encoding="application/x-tex">{}</annotation>'
KATEX = (
    '<span class="katex"><span class="katex-mathml"><math><semantics><mrow><mi>c</mi></mrow>'
    + TEX.format(r"c = \pm\sqrt{a}")
    + '</semantics></math></span><span class="katex-html" aria-hidden="true"><span>c=±√a</span></span></span>'
)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<p>Let <math><semantics><mi>x</mi>" + TEX.format("x^2") + "</semantics></math> be.", "Let $x^2$ be."),
        (f"<p>With {KATEX} here", r"With $c = \pm\sqrt{a}$ here"),
        (f'<p>A <span class="katex-display">{KATEX}</span>', r"A $$c = \pm\sqrt{a}$$"),
        (
            '<p>M <span class="MathJax_Preview">x2</span><span class="MathJax"><nobr>x2</nobr></span>'
            '<script type="math/tex">x^2 < 3</script> and <script type="math/tex; mode=display">\\int f</script>',
            r"M $x^2 < 3$ and $$\int f$$",
        ),
        ('<p>S <script type="math/mml"><math><msup><mi>x</mi><mn>2</mn></msup></math></script>', "S $x^{2}$"),
        (
            '<p>V <mjx-container display="true"><mjx-math><mjx-mi>x</mjx-mi></mjx-math><mjx-assistive-mml><math><msup><mi>x</mi>'
            "<mn>2</mn></msup></math></mjx-assistive-mml></mjx-container>.",
            "V $$x^{2}$$.",
        ),
        (
            '<p>W <span class="mwe-math-element"><span class="mwe-math-mathml-inline" style="display: none;"><math alttext="'
            '{\\displaystyle E=mc^{2}}"><mi>E</mi></math></span><img '
            'class="mwe-math-fallback-image-inline" alt="{\\displaystyle E=mc^{2}}"></span>.',
            "W $E=mc^{2}$.",
        ),
        ('<p>L <math alttext="O(n\\log n)" class="ltx_Math"><mi>O</mi></math>', r"L $O(n\log n)$"),
        (r"<p>Raw \(a_1 &lt; b\), $$x_2$$", r"Raw \(a_1 < b\), $$x_2$$"),
        ('<p><img class="latex" alt="x_2" src="a.png"> and <img src="https://latex.codecogs.com/y" alt="$y$">', "$x_2$ and $y$"),
        ('<p>An <img alt="elephant" src="e.png"> walks', "An elephant walks"),
    ],
)
def test_formulas_of_pages(page, expected):
    assert text(page) == expected


@pytest.mark.parametrize(
    ("mathml", "expected"),
    [
        ("<mi>α</mi><mo>≤</mo><mi>b</mi>", r"\alpha\leq b"),
        ("<mfrac><mn>1</mn><mrow><mi>x</mi><mo>+</mo><mi>y</mi></mrow></mfrac>", r"\frac{1}{x+y}"),
        ("<mroot><mi>x</mi><mn>3</mn></mroot><msqrt><mi>y</mi><mi>z</mi></msqrt>", r"\sqrt[3]{x}\sqrt{yz}"),
        ("<munderover><mo>∑</mo><mi>i</mi><mi>n</mi></munderover><msub><mi>a</mi><mi>i</mi></msub>", r"\sum_{i}^{n}a_{i}"),
        ("<mover><mi>x</mi><mo>¯</mo></mover><mover><mi>v</mi><mo>→</mo></mover>", r"\bar{x}\vec{v}"),
        ("<msup><mi>f</mi><mo>′</mo></msup>", "f'"),
        ("<mfenced><mi>a</mi><mi>b</mi></mfenced>", r"\left( a,b \right)"),
        ("<mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>0</mn></mtd></mtr><mtr><mtd><mn>0</mn></mtd><mtd><mn>1</mn></mtd></mtr></mtable>",
         r"\begin{matrix}1 & 0 \\ 0 & 1\end{matrix}"),
        ("<mmultiscripts><mi>U</mi><mprescripts/><mn>92</mn><mn>238</mn></mmultiscripts>", "{}_{92}^{238}U"),
        ("<mi>sin</mi><mo>&#x2061;</mo><mi>x</mi>", r"\sin x"),
        ("<mi>ℝ</mi><mi>𝒜</mi><mi>𝑥</mi>", r"\mathbb{R}\mathcal{A}x"),
        ('<mi mathvariant="bold">v</mi><mtext>if &amp; only</mtext>', r"\mathbf{v}\text{if & only}"),
        ("<msup><mrow><mo>(</mo><mi>a</mi><mo>)</mo></mrow><mn>2</mn></msup>", "{(a)}^{2}"),
        ("<mi>rank</mi>", r"\operatorname{rank}"),
    ],
)  # fmt: skip
def test_mathml_by_hand(mathml, expected):
    assert latex(f"<math>{mathml}</math>") == expected


FORMULAS = (
    r"\frac{a+b}{c}", r"\sqrt{x}+\sqrt[3]{y}", r"\sum_{i=0}^{n} i^2", r"\int_0^\infty e^{-x^2} dx", r"\alpha\beta \leq \Gamma",
    r"\begin{pmatrix}a&b\\c&d\end{pmatrix}", r"\left(\frac{1}{2}\right)^n", r"\hat{x}+\vec{v}+\bar{y}+\overline{AB}",
    r"\mathbb{R}^n \to \mathcal{L}", r"\sin x + \log_2 n", r"\lim_{n\to\infty} a_n", r"\text{if } x \in A", r"f'(x)",
    r"\begin{cases}1&x>0\\0&x\leq 0\end{cases}", r"\partial_t u = \nabla^2 u", r"\{x\mid x\neq 0\}", r"\underbrace{a+b}_{n}",
    r"x_{i,j}^{2k}", r"\binom{n}{k}",
)  # fmt: skip


@pytest.mark.parametrize("formula", FORMULAS)
def test_there_and_back_by_an_independent_library(formula):
    once = latex(convert(formula))
    assert latex(convert(once)) == once
    letters = [c for c in formula if c.isalnum()]
    assert [c for c in once if c.isdigit()] == [c for c in letters if c.isdigit()]


def test_deep_mathml_ends():
    deep = latex("<math>" + "<msqrt>" * 5_000 + "<mi>x</mi>")
    assert deep.count("sqrt") == DEEPEST - 1
    assert "x" in deep
