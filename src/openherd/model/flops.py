"""Parameters, FLOPs and cache bytes of a model, from its shape alone (paper 3.2). No torch here.

Convention: one multiply-add is 2 FLOPs; the input embedding is a lookup and costs none; a backward pass costs twice the forward
one. Attention is counted causally by default: a token attends to half of the sequence on average. Norms, activations and the
softmax are left out. 6 N D, the paper's accounting, is `6 * parameters * tokens`.
"""

from openherd.model.config import ModelConfig


def layer_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters of one layer, by part."""
    d, h = config.d_model, config.head_width
    return {
        "query": d * config.n_heads * h,
        "key": d * config.n_kv_heads * h,
        "value": d * config.n_kv_heads * h,
        "output": config.n_heads * h * d,
        "feed_forward": 3 * d * config.d_feed_forward,
        "norms": 2 * d,
    }


def parameters(config: ModelConfig) -> int:
    """All parameters; tied embeddings count once."""
    embeddings = config.vocabulary * config.d_model * (1 if config.tied_embeddings else 2)
    return config.n_layers * sum(layer_parameters(config).values()) + embeddings + config.d_model


def matmul_parameters(config: ModelConfig) -> int:
    """Parameters that multiply every token: all but the input embedding and the norms."""
    layer = layer_parameters(config)
    return config.n_layers * (sum(layer.values()) - layer["norms"]) + config.vocabulary * config.d_model


def attention_flops_per_token(config: ModelConfig, sequence_length: int, causal: bool = True) -> int:
    """Forward FLOPs per token of scores and weighted values, averaged over a sequence."""
    attended = (sequence_length + 1) / 2 if causal else sequence_length
    return int(4 * config.n_layers * config.n_heads * config.head_width * attended)


def flops_per_token(config: ModelConfig, sequence_length: int, causal: bool = True) -> int:
    """Training FLOPs per token (forward and backward) at a sequence length in tokens."""
    return 3 * (2 * matmul_parameters(config) + attention_flops_per_token(config, sequence_length, causal))


def paper_flops_per_token(config: ModelConfig, sequence_length: int) -> int:
    """6 N, the paper's accounting (3.2.1), the input embedding with it, and attention in full.

    The paper does not say how its MFU counts attention; in full is how those did whom it is compared with.
    """
    return 6 * parameters(config) + 3 * attention_flops_per_token(config, sequence_length, causal=False)


def kv_bytes_per_token(config: ModelConfig, bytes_per_value: int = 2) -> int:
    """Key/value cache per token, in bytes; 2 bytes a value is bf16."""
    return 2 * config.n_layers * config.n_kv_heads * config.head_width * bytes_per_value
