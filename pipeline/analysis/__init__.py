"""From logged runs to learning rates: one table, optimum and stability edge per width, exponents, figures, a page. No
torch."""
