"""Rules that take lines out of a text before the text is judged (paper 3.1.1).

The paper's own: lines that repeat themselves, such as logs, told by duplicated n-gram coverage. C4's (Raffel et al. 2020, section
2.2, and its published code): lines without an end mark, with few words or one overlong word, about JavaScript or cookies. ccNet's
(Wenzek et al. 2020): lines that stood before, compared without case, digits' values and punctuation. Each is one setting, and all
but the first are off unless asked for; a line goes by the first rule that it breaks, in the order of `LINE_RULES`.
"""

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from openherd.data.repetition import later_equals, line_ngram_shares
from openherd.data.text_batch import Flags, TextBatch, flags, integers

if TYPE_CHECKING:
    from openherd.data.heuristics import HeuristicsConfig

LINE_RULES = (
    "long_word_lines", "unfinished_lines", "short_lines", "javascript_lines", "policy_lines", "repeated_lines", "repetitive_lines",
)  # fmt: skip
ELLIPSIS = r"(\.\.\.|…)\s*$"
END_MARK = r"""[.?!"'”’»。！？।؟۔]\s*$"""  # C4's are . ? ! " and '; ours add those of other scripts
CITATION = r"\[\d*\]|\[edit\]|\[citation needed\]"
POLICY = "|".join(["terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"])  # C4's


def is_finished(batch: TextBatch) -> Flags:
    """Lines that end like a sentence: with an end mark or a closing quote, and not with three dots."""
    return batch.matching_lines(END_MARK) & ~batch.matching_lines(ELLIPSIS)


def normal_lines(batch: TextBatch) -> pa.StringArray:
    """The lines for comparing: lower-case, each digit 0, without punctuation and blanks at the ends."""
    lower = pc.replace_substring_regex(pc.utf8_lower(batch.lines), r"\p{Nd}", "0")
    return pc.utf8_trim_whitespace(pc.replace_substring_regex(lower, r"[\p{P}\p{S}]+", ""))


def removed_lines(config: "HeuristicsConfig", batch: TextBatch) -> dict[str, Flags]:
    """The lines that each rule takes, each line once. Blank lines stay, so that paragraphs do."""
    none = np.zeros(len(batch.lines), np.bool_)
    filled = batch.is_filled
    lower = pc.utf8_lower(batch.lines) if config.remove_javascript_lines or config.remove_policy_lines else batch.lines
    n_words = batch.words_per_line()
    found: dict[str, Flags] = dict.fromkeys(LINE_RULES, none)
    if config.max_word_characters:
        found["long_word_lines"] = batch.words_per_line(batch.word_characters > config.max_word_characters) > 0
    if config.remove_unfinished_lines:
        found["unfinished_lines"] = filled & ~is_finished(batch)
    if config.min_words_per_line:
        found["short_lines"] = filled & (n_words < config.min_words_per_line)
    if config.remove_javascript_lines:
        found["javascript_lines"] = flags(pc.match_substring(lower, "javascript"))
    if config.remove_policy_lines:
        found["policy_lines"] = flags(pc.match_substring_regex(lower, POLICY))
    if config.remove_repeated_lines:
        normal = normal_lines(batch)
        comparable = np.flatnonzero(flags(pc.greater(pc.binary_length(normal), 0)))
        keys = integers(normal.dictionary_encode().indices)[comparable]
        again = none.copy()
        again[comparable[later_equals(keys, batch.line_text[comparable])]] = True
        found["repeated_lines"] = again
    if config.max_line_ngram_share < 1:
        long = n_words >= config.min_line_words
        found["repetitive_lines"] = line_ngram_shares(batch, long, config.line_ngram_words) > config.max_line_ngram_share
    taken = none
    for name in LINE_RULES:
        found[name] = found[name] & ~taken
        taken = taken | found[name]
    return found


def without_citations(texts: pa.StringArray) -> pa.StringArray:
    """Texts without the marks that wikis set behind a sentence, as C4 removes them."""
    return pc.replace_substring_regex(texts, CITATION, "")
