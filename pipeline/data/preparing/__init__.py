"""Preparation: text into token shards, once."""
