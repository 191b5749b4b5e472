"""Output that keeps to a JSON schema or a regular expression, by llguidance (the extra `constrained`).

Before each token a constraint says which may follow: those that some text of the grammar goes on with, and the ids that end a turn
where the text is complete. Special tokens are never text. The library keeps its place by token, so that tokens can be taken back.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from openherd.core.errors import ConfigError, InputError
from openherd.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

# Between the parts of JSON; without a bound a weak model writes spaces to the end of its budget.
WHITESPACE = r"\n? {0,32}"


class Constraint:
    """A place in a grammar: what may come next after the tokens accepted so far."""

    def __init__(self, matcher: "LLMatcher", stop_ids: frozenset[int]) -> None:
        self._matcher, self._stop_ids = matcher, stop_ids

    @classmethod
    def json_schema(cls, schema: dict[str, Any] | str, tokenizer: Tokenizer) -> "Constraint":
        """Output is JSON that a schema, as an object or as text, accepts. Raises InputError for one that cannot be kept to, or has
        keywords that llguidance cannot keep to."""
        return cls.compiled("JSON schema", json_grammar(schema), tokenizer)

    @classmethod
    def regex(cls, pattern: str, tokenizer: Tokenizer) -> "Constraint":
        """Output matches a regular expression as a whole. Rust's syntax: no look-around, no back references. Raises InputError for
        one that cannot be kept to."""
        return cls.compiled("regular expression", imported().grammar_from_regex(pattern), tokenizer)

    @classmethod
    def compiled(cls, where: str, grammar: str, tokenizer: Tokenizer) -> "Constraint":
        """Output keeps to a grammar as llguidance writes it; `where` is what errors call it. Raises InputError."""
        constraint = cls(imported()(vocabulary_of(tokenizer), grammar, log_level=0), tokenizer.stop_ids)
        constraint._check(where)
        constraint._matcher.compute_logit_bias()  # where nothing can be said, the library finds out here
        if constraint._matcher.is_error():
            raise InputError(where, "cannot be kept to (no text does)")
        return constraint

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""
        return self._matcher.is_accepting()

    @property
    def finished(self) -> bool:
        """Whether the text must end here: none but a stop id may follow."""
        return self._matcher.is_stopped()

    def fill(self, allowed_V: Tensor) -> None:
        """Write into a row of a mask which tokens may come next. The row may be longer than the tokenizer's vocabulary, as that
        of a padded model is. Raises InputError where the grammar has become too complex to go on."""
        found = np.frombuffer(self._matcher.compute_logit_bias(), dtype=np.uint8) != 0
        self._check("constraint")
        allowed_V[: len(found)] = torch.from_numpy(found)
        allowed_V[len(found) :] = False

    def accept(self, token: int) -> None:
        """Go on by a token; a stop id, which is no part of the text, changes nothing. Raises ValueError for a token that is not
        allowed, and stays where it was."""
        # The library would take a stop id too, but count it among the tokens at some places only.
        taken = self.complete if token in self._stop_ids else self._matcher.try_consume_tokens([token]) == 1
        if not taken:
            self._check("constraint")
            raise ValueError(f"token {token} is not allowed here")

    def rollback(self, n_tokens: int) -> None:
        """Take back the last tokens of the text; stop ids do not count."""
        self._matcher.rollback(n_tokens)
        self._check("constraint")

    def copy(self) -> "Constraint":
        """One at the same place that goes on by itself: for samples of one prompt, which need not be compiled each."""
        return Constraint(self._matcher.deep_copy(), self._stop_ids)

    def _check(self, where: str) -> None:
        """Raises InputError where the library has given up."""
        if self._matcher.is_error():
            raise InputError(where, f"cannot be kept to ({reason(self._matcher.get_error())})")


def json_grammar(schema: dict[str, Any] | str) -> str:
    """The grammar of a JSON schema, as llguidance writes it. Raises InputError for what is no schema."""
    try:
        text = schema if isinstance(schema, str) else json.dumps(schema)
        return imported().grammar_from_json_schema(text, overrides={"whitespace_pattern": WHITESPACE})
    except (TypeError, ValueError) as error:
        raise InputError("JSON schema", f"cannot be kept to ({error})") from None


def reason(message: str) -> str:
    """What a message of llguidance says, without its drawing of the place."""
    lines = message.strip().splitlines() or ["no reason given"]
    return next((line.removeprefix("error: ") for line in lines if line.startswith("error: ")), lines[0])


def imported() -> "type[LLMatcher]":
    """llguidance's matcher. Raises ConfigError where the package is missing."""
    try:
        from llguidance import LLMatcher
    except ImportError as error:
        raise ConfigError(
            "constrained output", f"needs llguidance ({error})", do="pip install 'openherd[constrained]' brings it"
        ) from None
    return LLMatcher


class Vocabulary:
    """A tokenizer as llguidance reads one: all tokens' bytes, which are special, and how text is encoded."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.bos_token_id, self.eos_token_id = tokenizer.bos_id, tokenizer.eos_id
        self.tokens: Sequence[bytes] = [tokenizer.decode_bytes([i]) for i in range(tokenizer.vocabulary)]
        self.special_token_ids = sorted(tokenizer.special_ids)
        self._encode = tokenizer.encode

    def __call__(self, text: str) -> list[int]:
        return self._encode(text)


@lru_cache(maxsize=4)  # takes a second for 128,000 tokens
def vocabulary_of(tokenizer: Tokenizer) -> "LLTokenizer":
    """A tokenizer's tokens in llguidance's tree; its stop ids end a text."""
    from llguidance import LLTokenizer, TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(Vocabulary(tokenizer)), eos_token=sorted(tokenizer.stop_ids))
