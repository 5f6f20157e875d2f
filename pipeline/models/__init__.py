"""Models, the role of each of their tensors, and their initialization. No Lightning here."""
