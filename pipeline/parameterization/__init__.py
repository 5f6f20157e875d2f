"""Width parameterizations as data: `rules` says what each one is. No torch here."""
