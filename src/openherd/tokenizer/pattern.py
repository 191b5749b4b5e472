"""Llama 3's split pattern (paper 3.2; Meta's released tokenizer): text is cut into pieces, and merges never cross them.

Contractions, letters with one leading sign, up to three digits, punctuation, line ends, spaces. It needs Unicode classes, so it is
read by `regex` and by the Rust tokenizers, not by `re`.
"""

SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
