"""Exports of a run's weights, for litgpt and for transformers."""
