"""The Llama 3 model (paper 3.2), written for one process.

Tensors carry their shape as a suffix. The legend, for the whole package:
B batch · T tokens · D model width · N query heads · G key/value heads · H head width · F feed-forward width · V vocabulary.
"""
