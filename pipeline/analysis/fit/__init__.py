"""Fits: arrays into optimum, stability edge, exponents and predictions; numbers only."""
