"""`python -m orchestrator` is the `orthoplex` command."""

from orchestrator.cli import main

main()
