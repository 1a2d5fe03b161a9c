"""`python -m orchestrator` is the `orthoplex` command."""

from orchestrator.cli.main import main

main()
