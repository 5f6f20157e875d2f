"""Text -> documents -> token shards with a manifest -> windows of tokens in a seeded order. No Lightning here."""
