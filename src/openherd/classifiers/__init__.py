"""Training the classifiers that `data/` applies: quality, domains, code and mathematics, toxicity (paper 3.1.1, 3.1.2)."""
