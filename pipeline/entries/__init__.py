"""Entries: what may be chosen by name, one table per choice. Flags, checks, theory, labels and cost ask these tables;
the code that needs torch is named here and imported where it is used."""
