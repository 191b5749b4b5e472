"""Evaluation (paper 5): scores with intervals, each with the digest of the weights it read."""
