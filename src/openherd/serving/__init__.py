"""Serving: models behind an HTTP interface that OpenAI's clients speak, and a page to talk to them."""
