"""Pages: numbers in words, tables, figures and HTML."""
