"""Theory: what a parameterization, optimizer and loss predict for width exponents, in exact fractions. No torch
here."""
