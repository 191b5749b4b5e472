"""Pages with code and pages that reason, found apart from prose (paper 3.1.1: DeepSeek-like pipelines, two classifiers).

The paper's are DistilRoBERTa models on web data that Llama 2 annotated, tuned to mathematics, reasoning in STEM and code between
prose. Here two classifiers of one's own (`train-classifier`, or the Transformer) are asked, each beside a rule that needs no
training: the share of a text that stands in lines of code, and how dense equations, signs of mathematics and words of reasoning
are. The two are added as logarithms of odds; without a classifier the rule decides alone. A document's `kind` is code, reasoning
or prose, and both scores stay with it, so that a mix can weigh kinds. Token statistics of such pages are not those of prose: their
rules differ too.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field

from openherd.core.rundir import Output, Outside, Run
from openherd.data.calibration import sigmoid
from openherd.data.classifier import Classifier, checked_label, load, place_of, probability_of, with_columns
from openherd.data.documents import Drop, Judge, Judged
from openherd.data.engine import EngineConfig, EngineSetting, judge_documents

MOST_CHARACTERS = 400  # of a line of code
SUREST = 4.0  # log-odds of a rule at most: 98%
Kind = Literal["code", "reasoning", "prose"]
Floats = npt.NDArray[np.float64]

# A line of code in most of the languages in use: how it begins, how it ends, or that it is an assignment or a call.
CODE_LINE = re.compile(
    r"""^\s*(?:
      (?:def|class|fn|func|function|struct|enum|impl|trait|interface|namespace|module|package|async\ def|sub)\ [\w.:<>]+
        \s*[({<:\[]?.*[({:;,>]\s*$
    | (?:import|from|include|using|require|use|open)\ [\w.:*{}"'<>/ ,]+;?\s*$
    | \#\s*(?:include|define|ifdef|ifndef|endif|pragma)\b.*$ | \#!/.*$ | @\w[\w.]*(?:\(.*\))?\s*$
    | (?:public|private|protected|static|const|let|var|val|final|extern|mut|pub|unsigned|int|char|float|double|void|bool|auto)\b
        [^.?!]*[;{(=,]\s*$
    | (?:if|else|elif|for|while|switch|try|except|catch|finally|with|match|do|unless|until|case|default|loop)\b.*[:{)]\s*$
    | (?:return|yield|raise|throw|break|continue|pass|del|assert|print|echo|goto|delete|await)\b
        (?:\s*[;(\["'\w-].*)?[;)\]"'\w]?\s*$(?<![.!?])
    | (?:>>>|\.\.\.|\$|%|\#)\ \S.*$ | (?://|/\*|\*/|--\ |\#\ ).*$
    | [\w.\[\]*&>"'()-]+(?:\s*,\s*[\w.\[\]*"']+)*\s*(?:=|\+=|-=|\*=|/=|:=|<-|=>|\|\|=)\s*\S.*$
    | (?:[\w$]+(?:\.|::|->))*[\w$!]+\(.*\)\s*[;,:{]?\s*$
    | (?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|DROP)\ .*$
    | [{}()\[\];,]+\s*(?:else\b.*)?[{;,)]*\s*$ | <\/?[a-z][\w-]*(?:\s[^<>]*)?/?>.*$
    | .*(?:;|\{|\}|\):|\\|\)\ ->\ .*:)\s*$
    )""",
    re.VERBOSE,
)
SENTENCE = re.compile(r"^\s*[A-Z\"'(][^;{}=<>]*\s[^;{}=<>]*\s[^;{}=<>]*[.?!:][\"')]*\s*$")  # begins and ends as one, three words
COMMAND = re.compile(
    r"\\(?:frac|d?frac|sqrt|sum|int|prod|lim|alpha|beta|theta|pi|infty|cdot|times|le|ge|leq|geq|neq|in|mathbb|left|right|begin|text|boxed)\b"
)
# A command, the end of a line, inline mathematics.
LATEX = re.compile(rf"{COMMAND.pattern}|\\[a-z]+\{{|\\\\$|(?<!\S)\$[^$\n]{{1,80}}\$(?=[\s.,;:)]|$)")
SIGNS = re.compile(r"[∑∏∫√∞≤≥≠≈≡±×÷∈∉⊂⊆∪∩∀∃∂∇→⇒⇔∴∵°²³ⁿ]")
EQUATION = re.compile(r"(?<![\w=<>!])[\w)\]}^|]+\s*(?:[-+*/^]\s*[\w({\\$|.]+\s*)*(?:=|<|>|≤|≥|≠|≈)\s*[-\w({\\$|.+]")
ARITHMETIC = re.compile(r"\d[\d,.]*\s*(?:[-+*/×÷^=]|\\times|\\cdot)\s*[$(]?-?\d")
INLINE = re.compile(r"\$[^$\n]{1,200}\$|\\\(.{1,200}?\\\)|\\\[.{1,400}?\\\]", re.DOTALL)
REASON = re.compile(
    r"\b(?:theorem|lemma|corollary|proof|prove[sdn]?|equation|integer|polynomial|triangle|probability|derivative|integral|matrix|"
    r"vector|sum|product|divide[sd]?|multipl(?:y|ied)|subtract(?:ed)?|equals?|solve[sd]?|substitut(?:e|ing)|simplif(?:y|ies)|"
    r"therefore|hence|thus|implies|suppose|assume|let|since|because|so|then|if|must|total|each|remaining|per|times|twice|half)\b",
    re.IGNORECASE,
)
SOLUTION_WORDS = re.compile(
    r"\b(?:how (?:many|much|long|far)|what is the|find the|calculate|compute|determine|evaluate|show that)\b", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class CodeReasoningConfig:
    """Settings of `code-reasoning`; the paper publishes none."""

    code_threshold: Annotated[float, Field(description="score from which a document is code", ge=0, le=1)] = 0.5
    reasoning_threshold: Annotated[float, Field(description="score from which it reasons, where it is no code", ge=0, le=1)] = 0.5
    prior_weight: Annotated[float, Field(description="weight of the rule beside a classifier, in log-odds; 0 = none", ge=0)] = 0.5
    code_label: Annotated[str, Field(description="the code classifier's label; empty: the second of two")] = ""
    reasoning_label: Annotated[str, Field(description="the reasoning classifier's label; empty: the second of two")] = ""
    keep: Annotated[tuple[Kind, ...], Field(description="kinds that stay; the others are dropped")] = get_args(Kind)
    as_source: Annotated[bool, Field(description="make code and reasoning sources of their own, which a mix can weigh")] = False
    engine: EngineSetting = field(default_factory=EngineConfig)


def is_code(line: str) -> bool:
    """Whether a line looks like one of a program; very long ones are not looked at."""
    if len(line) >= MOST_CHARACTERS or CODE_LINE.match(line) is None:
        return False
    return SENTENCE.match(line) is None and LATEX.search(line) is None


def code_share(text: str) -> float:
    """The share of a text's characters, blanks aside, that stand in lines of code."""
    total = code = 0
    for line in text.split("\n"):
        n = len(line) - line.count(" ") - line.count("\t")
        total += n
        if n and is_code(line):
            code += n
    return code / total if total else 0.0


def reasoning_density(text: str) -> float:
    """Signs of reasoning in a text's lines that are no code, for each 100 words; equations and formulas count more than words."""
    lines = [
        line for line in text.split("\n") if not (CODE_LINE.match(line) and not SENTENCE.match(line)) or ARITHMETIC.search(line)
    ]
    prose = "\n".join(lines)
    n_words = max(len(prose.split()), 20)
    formulas = len(INLINE.findall(prose)) + len(COMMAND.findall(prose)) + len(SIGNS.findall(prose))
    steps = len(EQUATION.findall(prose)) + 2 * len(ARITHMETIC.findall(prose))
    said = len(REASON.findall(prose)) + 3 * len(SOLUTION_WORDS.findall(prose))
    return 100 * (formulas + steps + 0.3 * said) / n_words


def odds_of_rule(log_odds: float) -> float:
    """A rule's probability: it is never sure."""
    return 1 / (1 + math.exp(-max(min(log_odds, SUREST), -SUREST)))


def code_prior(text: str) -> float:
    """The rule's probability that a page has code: an even chance where a tenth of it stands in lines of code."""
    return odds_of_rule(25 * (code_share(text) - 0.1))


def reasoning_prior(text: str) -> float:
    """The rule's probability that a page reasons: an even chance at 6 signs for each 100 words."""
    return odds_of_rule(0.6 * (reasoning_density(text) - 6.0))


def log_odds(p: Floats) -> Floats:
    """Of probabilities, at most some 14 either way."""
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return np.log(p) - np.log1p(-p)


def combined(model: Floats | None, prior: Floats, prior_weight: float) -> Floats:
    """A classifier's probabilities and a rule's as one; the rule's alone without a classifier."""
    return prior if model is None else sigmoid(log_odds(model) + prior_weight * log_odds(prior))


def kind_of(config: CodeReasoningConfig, code: float, reasoning: float) -> Kind:
    """What a document is."""
    if code >= config.code_threshold:
        return "code"
    return "reasoning" if reasoning >= config.reasoning_threshold else "prose"


def scores(
    texts: Sequence[str], config: CodeReasoningConfig, code: Classifier | None, reasoning: Classifier | None
) -> tuple[Floats, Floats]:
    """Both scores of each text."""

    def of(classifier: Classifier | None, label: str) -> Floats | None:
        return None if classifier is None else probability_of(classifier, texts, checked_label(classifier, label, "code-reasoning"))

    return (
        combined(of(code, config.code_label), np.array([code_prior(text) for text in texts]), config.prior_weight),
        combined(of(reasoning, config.reasoning_label), np.array([reasoning_prior(text) for text in texts]), config.prior_weight),
    )


def prepare_code_reasoning(config: CodeReasoningConfig, code_place: str, reasoning_place: str) -> Judge:
    """The stage on batches; an empty place is no classifier."""
    code = load(Path(code_place)) if code_place else None
    reasoning = load(Path(reasoning_place)) if reasoning_place else None

    def judge(batch: pa.RecordBatch) -> Judged:
        of_code, of_reasoning = (
            found.astype(np.float32) for found in scores(batch.column("text").to_pylist(), config, code, reasoning)
        )
        kinds = [kind_of(config, c, r) for c, r in zip(of_code.tolist(), of_reasoning.tolist(), strict=True)]
        columns = {"code_score": pa.array(of_code), "reasoning_score": pa.array(of_reasoning), "kind": pa.array(kinds, pa.string())}
        if config.as_source:
            sources = zip(kinds, batch.column("source").to_pylist(), strict=True)
            columns["source"] = pa.array([source if kind == "prose" else kind for kind, source in sources], pa.string())
        drops = [
            None if kind in config.keep else Drop(f"kind {kind}", f"code {c:.3f}, reasoning {r:.3f}")
            for kind, c, r in zip(kinds, of_code.tolist(), of_reasoning.tolist(), strict=True)
        ]
        return Judged(with_columns(batch, columns), drops)

    return judge


def code_reasoning(
    config: CodeReasoningConfig,
    *,
    documents: Run,
    code: Run | Outside | None = None,
    reasoning: Run | Outside | None = None,
    out: Output,
) -> dict[str, Any]:
    """Tell documents with code and documents that reason from prose, by classifiers and a rule, or by the rule alone."""
    places = []
    for source, label, name in ((code, config.code_label, "code"), (reasoning, config.reasoning_label, "reasoning")):
        place = str(place_of(source)) if source is not None else ""
        if place:
            checked_label(load(Path(place)), label, f"code-reasoning, {name}")
        places.append(place)
    counts: Counter[str] = Counter()

    def watch(judged: Judged) -> None:
        counts.update(judged.batch.column("kind").to_pylist())

    metrics = judge_documents(
        "code-reasoning", partial(prepare_code_reasoning, config, *places), documents, out, config.engine, watch
    )
    return metrics | {"documents_by_kind": {kind: counts[kind] for kind in get_args(Kind)}}
