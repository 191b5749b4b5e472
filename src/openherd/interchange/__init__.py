"""Models from elsewhere and to elsewhere: Hugging Face, Meta, GGUF, each with its check (paper 3.2)."""
