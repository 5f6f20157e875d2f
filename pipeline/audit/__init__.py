"""What a stranger's model and optimizer amount to: builds at several widths, measured from outside and named."""
