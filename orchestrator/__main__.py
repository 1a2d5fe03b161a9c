"""`python -m orchestrator` is the `orthoplex` command."""

from cluster.leaving import leaving

with leaving():
    from orchestrator.cli.main import main

    main()
