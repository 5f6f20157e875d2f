"""`pipeline train`: one run."""

from collections.abc import Sequence

from pipeline.cli.arguments import parse


def main(argv: Sequence[str]) -> int:
    """Train, or with ``--dry_run`` say what would be trained. Raises `RequestError` for a wrong request."""
    config, dry_run = parse("train", argv)
    if dry_run:
        from pipeline.training.describe import describe

        print(describe(config))
        return 0
    from pipeline.training.trainer import train_verbosely

    return train_verbosely(config)
