"""Checkpoints: folders of safetensors with a manifest, whatever the strategy."""
