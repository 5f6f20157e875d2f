"""What learning rate at width n, and how sure are we? Train, sweep, fit and report over model widths."""

__version__ = "0.1.0"
