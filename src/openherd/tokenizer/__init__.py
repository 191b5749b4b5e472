"""Tokenizer and dialog format (paper 3.2, 4.1.1)."""
