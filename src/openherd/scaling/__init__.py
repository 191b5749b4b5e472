"""Scaling laws (paper 3.2.1): fits, intervals, extrapolation, the runs they are fitted to. N parameters, D tokens, C FLOPs."""
