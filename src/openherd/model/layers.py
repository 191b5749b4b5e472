"""Linear maps and embeddings whose weights are not drawn when they are made: `init.initialise` or a file gives them (paper 3.2).

torch draws them at once, which a model on the meta device pays with the second that importing torch's compiler takes.
"""

from torch import nn


class Linear(nn.Linear):
    """x W^T, without a bias."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out, bias=False)

    def reset_parameters(self) -> None:
        """Nothing."""


class Embedding(nn.Embedding):
    """A row for each token."""

    def reset_parameters(self) -> None:
        """Nothing."""
