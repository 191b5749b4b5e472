"""Inference: generation, chat, and scores of text under a model (paper 6)."""
