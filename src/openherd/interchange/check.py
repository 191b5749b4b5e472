"""The check of an import or an export: is it the same model (paper 3.2)?

A second implementation, slow and obvious, computes straight from the other side's own tensors in the other side's own conventions,
layer by layer in fp32, and our model is run layer by layer in fp32 too, so that one of any size fits. What is compared: logits on
fixed tokens and a greedy continuation by our engine; the likeliest token at each of its 64 places; and the chat template on a
conversation with all roles.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openherd.core.errors import InputError
from openherd.inference.engine import generate
from openherd.inference.sampling import Sampling
from openherd.interchange.sources import ModelSource
from openherd.model.attention import CausalAttend
from openherd.model.config import ModelConfig
from openherd.model.transformer import Transformer
from openherd.model.weights import load_model
from openherd.tokenizer.dialog import Message, encode_dialog
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.tools import Preamble

# What Llama 3.1's released template says of dates in every dialog; ours where it is asked to.
DATED = Preamble(knowledge_date="December 2023", date_string="26 Jul 2024")
PROMPT, CONTINUED = 32, 64  # tokens
LOSSLESS = 1e-3  # of the largest logit: what fp32 may lose in another order of sums
ROWS = 16_384  # of the head, in fp32 at once
CONVERSATION: list[Message] = [
    {"role": "system", "content": "You answer in one word."},
    {"role": "user", "content": "What is 6 times 7?"},
    {"role": "assistant", "content": "Let me ask."},
    {"role": "tool", "content": {"result": 42}},
    {"role": "assistant", "content": " Forty-two. "},
]


@dataclass(frozen=True)
class Check:
    """What was found."""

    largest_logit_difference: float
    largest_logit: float
    greedy_same: int
    greedy_of: int
    template: str

    def text(self) -> str:
        """In one line."""
        return (
            f"largest logit difference {self.largest_logit_difference:.2g} (logits up to {self.largest_logit:.3g}, in fp32), "
            f"greedy {self.greedy_same} of {self.greedy_of} tokens, chat template {self.template}"
        )

    def refuse_difference(self, where: Path, what: str) -> None:
        """Raises InputError where an import or export that loses nothing changed the model."""
        if not self.largest_logit_difference <= LOSSLESS * max(self.largest_logit, 1.0):
            raise InputError(
                where, f"the {what}ed model is another: {self.text()}", do=f"tell us; --no-check {what}s it all the same"
            )

    def metrics(self) -> dict[str, Any]:
        """As it is kept in the manifest."""
        return asdict(self)


def frequencies(config: ModelConfig) -> list[float]:
    """Radians per position of each pair, worked out one by one."""
    found = []
    for i in range(config.head_width // 2):
        f = config.rope_theta ** (-2 * i / config.head_width)
        if (s := config.rope_scaling) is not None:
            turns = s.original_positions * f / (2 * math.pi)  # that the old context makes
            if turns < s.low_frequency_factor:
                f /= s.factor
            elif turns <= s.high_frequency_factor:
                kept = (turns - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor)
                f = (1 - kept) * f / s.factor + kept * f
        found.append(f)
    return found


def turned(x_NTH: Tensor, angles_TP: Tensor, halves: bool) -> Tensor:
    """Each pair of a head turned as a complex number; pairs are halves or neighbours."""
    first, second = x_NTH.chunk(2, -1) if halves else (x_NTH[..., 0::2], x_NTH[..., 1::2])
    z = torch.complex(first, second) * torch.polar(torch.ones_like(angles_TP), angles_TP)
    return torch.cat([z.real, z.imag], -1) if halves else torch.stack([z.real, z.imag], -1).flatten(-2)


@torch.no_grad()
def slow_logits(source: ModelSource, tokens: list[int]) -> Tensor:
    """Logits of a text under the source's own tensors, shape (T, V), fp32."""
    c = source.config
    n = len(tokens)
    angles = torch.arange(n)[:, None] * torch.tensor(source.frequencies or frequencies(c), dtype=torch.float64)
    later = torch.ones(n, n, dtype=torch.bool).triu(1)

    def weight(name: str) -> Tensor:
        return source.read(name).float()

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + c.norm_epsilon).sqrt() * weight(name)

    embedding = source.read("model.embed_tokens.weight")
    x = embedding[torch.tensor(tokens)].float()
    for i in range(c.n_layers):
        layer = f"model.layers.{i}"
        h = norm(x, f"{layer}.input_layernorm.weight")
        q, k, v = (
            (h @ weight(f"{layer}.self_attn.{p}_proj.weight").T).view(n, -1, c.head_width).transpose(0, 1) for p in ("q", "k", "v")
        )
        q, k = (turned(part, angles.float(), source.pairs_halves) for part in (q, k))
        k, v = (part.repeat_interleave(c.n_heads // c.n_kv_heads, 0) for part in (k, v))
        scores = (q @ k.transpose(1, 2) / math.sqrt(c.head_width)).masked_fill(later, -math.inf)
        heads = torch.softmax(scores, -1) @ v
        x = x + heads.transpose(0, 1).reshape(n, -1) @ weight(f"{layer}.self_attn.o_proj.weight").T
        h = norm(x, f"{layer}.post_attention_layernorm.weight")
        gate = torch.nn.functional.silu(h @ weight(f"{layer}.mlp.gate_proj.weight").T)
        x = x + (gate * (h @ weight(f"{layer}.mlp.up_proj.weight").T)) @ weight(f"{layer}.mlp.down_proj.weight").T
    x = norm(x, "model.norm.weight")
    return times(x, embedding if c.tied_embeddings else source.read("lm_head.weight"))


def times(x_TD: Tensor, head_VD: Tensor) -> Tensor:
    """Logits (T, V) in fp32, some rows of the head at a time."""
    return torch.cat([x_TD @ rows.float().T for rows in head_VD.split(ROWS)], -1)


@torch.no_grad()
def logits_in_fp32(model: Transformer, tokens: list[int]) -> Tensor:
    """Our logits of a text, shape (T, V): weights of any type are fp32 while their layer is computed."""
    kept: dict[torch.nn.Module, list[Tensor]] = {}

    def widen(module: torch.nn.Module, _: object) -> None:
        kept[module] = [p.data for p in module.parameters()]
        module.float()

    def restore(module: torch.nn.Module, *_: object) -> None:
        for parameter, data in zip(module.parameters(), kept.pop(module), strict=True):
            parameter.data = data

    for module in (*model.layers.values(), model.norm):
        module.register_forward_pre_hook(widen)
        module.register_forward_hook(restore)
    positions = torch.arange(len(tokens))[None]
    hidden = model.trunk(model.embed(torch.tensor([tokens])).float(), positions, CausalAttend())
    return times(hidden[0], model.head.weight)


def compare(ours: Path, other: ModelSource, template: str | None) -> Check:
    """Compare a model directory of ours with the model elsewhere; `template` is the other side's chat template."""
    c = other.config
    model = load_model(ours)  # mapped, in its own type
    prompt = min(PROMPT, max(c.max_positions // 3, 1))
    drawn = torch.randint(c.vocabulary, (prompt,), generator=torch.Generator().manual_seed(0)).tolist()
    text = drawn + generate(model, [drawn], Sampling(max_new_tokens=min(CONTINUED, c.max_positions - prompt)), ())[0]
    mine, theirs = logits_in_fp32(model, text), slow_logits(other, text)
    mine_next, theirs_next = (logits[prompt - 1 : -1].argmax(-1) for logits in (mine, theirs))
    return Check(
        float((mine - theirs).abs().max()),
        float(theirs.abs().max()),
        int((mine_next == theirs_next).sum()),
        len(text) - prompt,
        compare_template(ours, template),
    )


def compare_template(ours: Path, template: str | None) -> str:
    """Our encoding of a conversation beside a chat template's, in words."""
    if not (ours / "tokenizer.json").exists():
        return "not compared (no tokenizer)"
    if template is None:
        return "not compared (there is none)"
    tokenizer = Tokenizer.load(ours)
    render = renderer(template)
    differences = []
    for preamble, found in ((Preamble(), "the same"), (DATED, "the same, with the dates that it adds")):
        today = {"date_string": preamble.date_string} if preamble.date_string else {}
        try:
            text = render(messages=CONVERSATION, bos_token=tokenizer.decode([tokenizer.bos_id]), **today)
        except Exception as error:  # a template is a program: it may fail in any way
            return f"not compared (it fails: {error})"
        theirs, mine = tokenizer.encode(text, allow_special=True), encode_dialog(tokenizer, CONVERSATION, preamble=preamble).ids
        if theirs == mine:
            return found
        at = next((i for i, (a, b) in enumerate(zip(theirs, mine, strict=False)) if a != b), min(len(theirs), len(mine)))
        differences.append((at, tokenizer.decode(theirs[at : at + 8]), tokenizer.decode(mine[at : at + 8])))
    at, it_has, we_have = max(differences)
    return f"differs: at token {at} it has {it_has!r}, we {we_have!r}"


def renderer(template: str) -> Callable[..., str]:
    """A chat template as transformers runs it, in a sandbox."""
    from datetime import datetime

    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise ValueError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda format: datetime.now().strftime(format)}
    compiled = environment.from_string(template)
    return lambda **values: str(compiled.render(add_generation_prompt=False, **values))


def template_of(directory: Path) -> str | None:
    """The chat template of a Hugging Face directory."""
    file = directory / "chat_template.jinja"
    if file.exists():
        return file.read_text(encoding="utf-8")
    try:
        found = json.loads((directory / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, json.JSONDecodeError, AttributeError):
        return None
    if isinstance(found, list):  # several by name
        found = next((entry.get("template") for entry in found if entry.get("name") == "default"), None)
    return found if isinstance(found, str) else None
