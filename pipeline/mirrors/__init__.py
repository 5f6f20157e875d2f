"""Mirrors of a run's records: W&B, TensorBoard, trackio. metrics.jsonl is the truth; none of them is ever needed."""
