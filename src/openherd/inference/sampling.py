"""Choosing the next token of each row from its logits.

In this order: repetition, presence and frequency penalties, logit bias, the mask of a constraint, temperature, min-p, top-k, top-p.
vLLM and transformers add the bias before the penalties; here a bias is what it says, and no penalty scales it. transformers cuts by
min-p last, which is another cut where top-p is set too.

The three cuts each come down to a least logit, below which tokens fall: tokens with the same logit stay or fall together.

A row's token depends on its own logits and request alone. It is drawn by one number, a hash of the seed and of how many tokens came
before; the weights are integers, so that their sums are the same in any order, on any number of threads, in any batch. Thus a
request that was preempted, or that runs beside others, draws what it would have drawn alone from the same logits.
"""

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import torch
from torch import Tensor

from openherd.core.errors import ConfigError

GREEDY_BELOW = 1e-5  # a lower temperature is greedy, as in vLLM
UNIT = 2.0**40  # weight of the likeliest token; 2^20 such tokens still add up to an int64
FIRST_CANDIDATES = 256  # likeliest tokens looked at first for top-p and min-p; 16 times as many where they do not suffice


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How to continue a prompt. Raises ConfigError for a value out of range."""

    max_new_tokens: int
    temperature: float = 0.0
    """0 is greedy."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest tokens that have this probability together."""
    min_p: float = 0.0
    """Keep tokens that have this share of the likeliest token's probability."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of tokens of prompt and output, multiplies the negative ones. 0.01 to 100: no logit overflows."""
    presence_penalty: float = 0.0
    """Taken from the logits of tokens of the output."""
    frequency_penalty: float = 0.0
    """Taken from the logits of tokens of the output as often as they stand there."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of token ids."""
    seed: int = 0
    """64 bits, signed."""
    stop_strings: tuple[str, ...] = ()
    """Texts that end the output and are no part of it."""
    logprobs: int = 0
    """How many of the likeliest tokens to report beside the chosen one."""

    def __post_init__(self) -> None:
        self._check("max_new_tokens", self.max_new_tokens >= 0, "0 or more")
        self._check("temperature", 0 <= self.temperature < math.inf, "0 (greedy) or more")
        self._check("top_k", self.top_k >= 0, "0 (all tokens) or more")
        self._check("top_p", 0 < self.top_p <= 1, "above 0, at most 1")
        self._check("min_p", 0 <= self.min_p <= 1, "0 to 1")
        self._check("repetition_penalty", 0.01 <= self.repetition_penalty <= 100, "0.01 to 100; 1 does nothing")
        self._check("presence_penalty", abs(self.presence_penalty) <= 2, "-2 to 2")
        self._check("frequency_penalty", abs(self.frequency_penalty) <= 2, "-2 to 2")
        self._check("logit_bias", all(i >= 0 and bias < math.inf for i, bias in self.logit_bias.items()), "token ids to numbers")
        self._check("seed", -(2**63) <= self.seed < 2**63, "-2^63 to 2^63 - 1")
        texts = isinstance(self.stop_strings, tuple) and all(isinstance(s, str) and s for s in self.stop_strings)
        self._check("stop_strings", texts, "a tuple of texts, none empty")
        self._check("logprobs", self.logprobs >= 0, "0 or more")

    def check_vocabulary(self, vocabulary: int) -> None:
        """Raises ConfigError where `logit_bias` names a token that the model does not have."""
        self._check("logit_bias", max(self.logit_bias, default=-1) < vocabulary, f"token ids below {vocabulary}")

    def _check(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise ConfigError(f"sampling.{name}", repr(getattr(self, name)), allowed=allowed)

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken."""
        return self.temperature < GREEDY_BELOW

    @property
    def edits_logits(self) -> bool:
        """Whether there are penalties or biases."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0 or bool(self.logit_bias)

    @property
    def cuts(self) -> bool:
        """Whether tokens fall by min-p, top-k or top-p."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True)
class Sampled:
    """The next tokens, one a row."""

    tokens: list[int]
    """-1 where none can be chosen: the logits are no numbers, or no token is allowed."""
    logprobs: list[float]
    """Natural log-probabilities of the tokens by the model alone: before penalties, bias, mask, temperature and cuts; fp32."""
    top: list[list[tuple[int, float]]]
    """The likeliest tokens with their log-probabilities, as many as the row's `logprobs`; of equals the lower id first."""


@torch.no_grad()
def sample(
    logits_BV: Tensor,
    requests: Sequence[Sampling],
    prompts: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
    allowed_BV: Tensor | None = None,
) -> Sampled:
    """The next token of each row; greedy ties go to the lowest id.

    `prompts` and `outputs` are the rows' token ids so far; `allowed_BV` is False for tokens that a constraint forbids. The logits
    are left as they are.
    """
    raw_BV = logits_BV.float()
    log_probs_BV = raw_BV.log_softmax(-1)
    scores_BV = edit(raw_BV, requests, prompts, outputs, allowed_BV)
    best_B1, best_ids_B1 = scores_BV.max(-1, keepdim=True)
    tokens_B, can_B = best_ids_B1[:, 0], best_B1[:, 0].isfinite()
    drawn = [row for row, (request, can) in enumerate(zip(requests, can_B.tolist(), strict=True)) if can and not request.greedy]
    if drawn:
        some = slice(None) if len(drawn) == len(requests) else torch.tensor(drawn, device=scores_BV.device)
        # The likeliest is made 0 first: a low temperature then overflows to -inf only.
        temperatures = torch.tensor([[requests[row].temperature] for row in drawn], device=scores_BV.device)
        scaled_BV = (scores_BV[some] - best_B1[some]) / temperatures
        numbers = [random_bits(requests[row].seed, len(outputs[row])) for row in drawn]
        tokens_B[some] = draw(scaled_BV, [requests[row] for row in drawn], numbers).to(tokens_B.device)
    chosen_B = log_probs_BV.gather(-1, tokens_B[:, None])[:, 0]
    top = [likeliest(log_probs_BV[row], request.logprobs) for row, request in enumerate(requests)]
    return Sampled(tokens_B.where(can_B, -1).tolist(), chosen_B.tolist(), top)


def edit(
    raw_BV: Tensor,
    requests: Sequence[Sampling],
    prompts: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
    allowed_BV: Tensor | None,
) -> Tensor:
    """The logits after penalties, bias and mask, fp32; the same tensor where there are none."""
    edited = [row for row, request in enumerate(requests) if request.edits_logits]
    if not edited and allowed_BV is None:
        return raw_BV
    scores_BV = raw_BV.clone()
    device = raw_BV.device
    for row in edited:
        request, scores_V = requests[row], scores_BV[row]
        if request.repetition_penalty != 1:
            seen = torch.tensor(sorted({*prompts[row], *outputs[row]}), dtype=torch.long, device=device)
            found = scores_V[seen]
            scores_V[seen] = torch.where(found > 0, found / request.repetition_penalty, found * request.repetition_penalty)
        if outputs[row] and (request.presence_penalty or request.frequency_penalty):
            ids, counts = torch.tensor(outputs[row], device=device).unique(return_counts=True)
            scores_V[ids] -= request.presence_penalty + request.frequency_penalty * counts
        if request.logit_bias:
            ids = torch.tensor(list(request.logit_bias), device=device)
            scores_V[ids] += torch.tensor(list(request.logit_bias.values()), dtype=torch.float32, device=device)
    if allowed_BV is not None:
        scores_BV.masked_fill_(~allowed_BV.to(device), -torch.inf)
    return scores_BV


def random_bits(seed: int, index: int) -> int:
    """64 random bits for the token at `index` of an output: a hash, so that nothing needs to be remembered between two tokens."""
    return int.from_bytes(blake2b(struct.pack("<qQ", seed, index), digest_size=8).digest(), "little")


def draw(scaled_BV: Tensor, requests: Sequence[Sampling], numbers: Sequence[int]) -> Tensor:
    """A token of each row from logits over temperature, the highest of which is 0, shape (B,); `numbers`: 64 random bits a row."""
    if scaled_BV.device.type == "mps":
        scaled_BV = scaled_BV.cpu()  # it lacks float64
    tokens_B = torch.empty(len(requests), dtype=torch.long, device=scaled_BV.device)
    for rows, ids_BN, weights_BN in kept(scaled_BV, requests):
        places_B1 = inverse(weights_BN, [numbers[row] for row in rows])[:, None]
        tokens_B[torch.tensor(rows, device=scaled_BV.device)] = ids_BN.gather(-1, places_B1)[:, 0]
    return tokens_B


def kept(scaled_BV: Tensor, requests: Sequence[Sampling]) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """What is left of each row after its cuts, in groups of rows: the rows, and of N tokens each the ids in rising order and the
    weights, both of shape (rows, N). Tokens that fell weigh nothing."""
    device, vocabulary = scaled_BV.device, scaled_BV.shape[1]
    whole = [row for row, request in enumerate(requests) if not request.cuts]
    if whole:
        ids_BV = torch.arange(vocabulary, device=device).expand(len(whole), -1)
        yield whole, ids_BV, weights(scaled_BV if len(whole) == len(requests) else scaled_BV[whole])
    cut = [row for row, request in enumerate(requests) if request.cuts]
    n = max((requests[row].top_k + 1 for row in cut), default=0)
    n = max(n, FIRST_CANDIDATES if any(not requests[row].top_k for row in cut) else 0)
    while cut:
        n = min(n, vocabulary)
        rows_BV = scaled_BV if len(cut) == len(requests) else scaled_BV[cut]
        values_BN, ids_BN = rows_BV.topk(n)
        least_B1 = least_kept(values_BN, rows_BV, [requests[row] for row in cut])
        # Where the last candidate falls or weighs nothing, the candidates are all that is left; else others may be, or its equals.
        last_B1 = values_BN[:, -1:]
        enough_B1 = (last_B1 < least_B1) | (weights(last_B1) == 0) | (n == vocabulary)
        enough = enough_B1[:, 0].tolist()
        if any(enough):
            done_B = enough_B1[:, 0]
            weights_BN = weights(values_BN).masked_fill(values_BN < least_B1, 0)
            ids_BN, order_BN = ids_BN[done_B].sort(-1)
            yield [row for row, e in zip(cut, enough, strict=True) if e], ids_BN, weights_BN[done_B].gather(-1, order_BN)
        cut = [row for row, e in zip(cut, enough, strict=True) if not e]
        n *= 16


def least_kept(values_BN: Tensor, scaled_BV: Tensor, requests: Sequence[Sampling]) -> Tensor:
    """The least logit that each row keeps, shape (B, 1), from its N highest in falling order; where N are too few, the lowest."""
    device, n = values_BN.device, values_BN.shape[1]

    def column(numbers: list[float]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64, device=device)[:, None]

    least_B1 = column([request.min_p for request in requests]).log().float()
    if any(request.top_k for request in requests):
        last_B1 = column([min(request.top_k or n, n) - 1 for request in requests]).long()
        none_B1 = column([0 if request.top_k else -math.inf for request in requests]).float()
        least_B1 = torch.maximum(least_B1, values_BN.gather(-1, last_B1) + none_B1)
    if all(request.top_p == 1 for request in requests):
        return least_B1
    top_p_B1 = column([request.top_p for request in requests])
    weights_BN = weights(values_BN).masked_fill(values_BN < least_B1, 0)
    total_B1 = weights_BN.sum(-1, keepdim=True)
    beyond = ((values_BN[:, -1:] >= least_B1) & (top_p_B1 < 1))[:, 0].nonzero()[:, 0]  # others weigh too
    if len(beyond) and n < scaled_BV.shape[1]:
        rest_BV = scaled_BV if len(beyond) == len(requests) else scaled_BV[beyond]
        total_B1[beyond] = weights(rest_BV).masked_fill(rest_BV < least_B1[beyond], 0).sum(-1, keepdim=True)
    before_BN = weights_BN.cumsum(-1) - weights_BN
    n_kept_B1 = (before_BN < top_p_B1 * total_B1).sum(-1, keepdim=True)
    return torch.where(top_p_B1 < 1, torch.maximum(least_B1, values_BN.gather(-1, n_kept_B1 - 1)), least_B1)


def weights(scaled: Tensor) -> Tensor:
    """What tokens weigh in a draw, int64, from logits the highest of which is 0 (and weighs 2^40)."""
    return (scaled.exp() * UNIT).long()


def inverse(weights_BN: Tensor, numbers: Sequence[int]) -> Tensor:
    """The place in each row at which the running sum of the weights passes a share of the whole, numbers / 2^64, shape (B,)."""
    sums_BN = weights_BN.cumsum(-1)
    shares = [number * total >> 64 for number, total in zip(numbers, sums_BN[:, -1].tolist(), strict=True)]
    return torch.searchsorted(sums_BN, torch.tensor(shares, device=sums_BN.device)[:, None], right=True)[:, 0]


def likeliest(log_probs_V: Tensor, n: int) -> list[tuple[int, float]]:
    """The n likeliest tokens and their log-probabilities; of equals the lower id first."""
    if n == 0:
        return []
    least = log_probs_V.topk(min(n, len(log_probs_V)))[0][-1]
    ids = (log_probs_V >= least).nonzero()[:, 0]
    values, order = log_probs_V[ids].sort(descending=True, stable=True)
    return list(zip(ids[order].tolist(), values.tolist(), strict=True))[:n]
