"""Everything that touches torch.distributed (paper 3.3); no other package may import it."""
