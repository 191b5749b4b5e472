"""Curation: from pages to documents to token files (paper 3.1). Every stage is a pure function over rows; what it drops, it
explains.
"""
