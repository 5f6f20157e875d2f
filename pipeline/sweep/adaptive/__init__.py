"""The adaptive plan: which runs tell most, given those that are finished."""
