"""The inside of runs: what coordinate checks say of widths; numbers only."""
