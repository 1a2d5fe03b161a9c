"""The command `orthoplex`, which is `python -m orthoplex` too."""

import sys

from orthoplex.names import check


def main() -> None:
    """Entry point of the console script. Ends with 2 if a user's folder is in the place of one of our packages."""
    try:
        check()
    except ImportError as error:
        print(f"orthoplex: {error}", file=sys.stderr)
        sys.exit(2)
    from cluster.leaving import leaving

    with leaving():
        from orchestrator.cli.main import main as command

        command()


if __name__ == "__main__":
    main()
