"""`openherd model`: a model size in words and numbers, from its shape alone (paper 3.2, Table 3)."""

from openherd.core.config import nearest
from openherd.core.errors import ConfigError
from openherd.model.config import SIZES
from openherd.model.flops import flops_per_token, kv_bytes_per_token, layer_parameters, parameters


def model_text(name: str, sequence_length: int) -> str:
    """One size, or all of them for 'list'. Raises ConfigError for an unknown name."""
    if name == "list":
        titles = f"{'layers':>7}{'d_model':>9}{'heads':>7}{'kv':>4}{'width':>7}{'ffn':>8}{'vocabulary':>12}{'parameters':>18}"
        rows = [
            f"{n:<14}{c.n_layers:>7}{c.d_model:>9,}{c.n_heads:>7}{c.n_kv_heads:>4}{c.head_width:>7}{c.d_feed_forward:>8,}"
            f"{c.vocabulary:>12,}{parameters(c):>18,}"
            for n, c in SIZES.items()
        ]
        return "\n".join([f"{'name':<14}{titles}", *rows])
    if name not in SIZES:
        raise ConfigError("model", f"unknown size {name!r}", do=nearest(name, SIZES))
    if sequence_length < 1:
        raise ConfigError("--sequence-length", str(sequence_length), allowed="1 or more")
    c = SIZES[name]
    layer = layer_parameters(c)
    scaling = c.rope_scaling
    rope = f"base {c.rope_theta:,.0f}" + (f", frequencies scaled by {scaling.factor:g} (Llama 3.1)" if scaling else "")
    causal = flops_per_token(c, sequence_length)
    full = flops_per_token(c, sequence_length, causal=False)
    facts: list[tuple[str, str]] = [
        ("layers", f"{c.n_layers}"),
        ("model width", f"{c.d_model:,}"),
        ("heads", f"{c.n_heads} query, {c.n_kv_heads} key/value, {c.head_width} wide"),
        ("feed-forward width", f"{c.d_feed_forward:,}"),
        ("vocabulary", f"{c.vocabulary:,}{', embeddings tied' if c.tied_embeddings else ''}"),
        ("RoPE", rope),
        ("context", f"{c.max_positions:,} tokens"),
        ("", ""),
        ("parameters", f"{parameters(c):,}"),
        ("  one layer", f"{sum(layer.values()):,}"),
        *[(f"    {part}", f"{n:,}") for part, n in layer.items()],
        ("  embeddings", f"{c.vocabulary * c.d_model * (1 if c.tied_embeddings else 2):,}"),
        ("weights, bf16", f"{2 * parameters(c) / 1e9:,.2f} GB"),
        (
            "training FLOPs/token",
            f"{causal:.4g} at {sequence_length:,} tokens, attention counted causally ({full:.4g} counted in full)",
        ),
        ("6 N per token", f"{6 * parameters(c):.4g}, the paper's accounting"),
        (
            "KV cache, bf16",
            f"{kv_bytes_per_token(c):,} bytes per token, {kv_bytes_per_token(c) * c.max_positions / 1e9:,.2f} GB at full context",
        ),
    ]
    return "\n".join([name, *(f"  {key:<24}{value}".rstrip() for key, value in facts)])
