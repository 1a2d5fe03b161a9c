"""Methods of continual learning beside each other: methods × orders × seeds, one results file, one table.

    PYTHONPATH=. python -m benchmarks.methods --plan
    PYTHONPATH=. python -m benchmarks.methods --minutes 9 --jobs 16
    PYTHONPATH=. python -m benchmarks.methods --table
    PYTHONPATH=. python -m benchmarks.methods --write

`benchmarks/methods.yaml` says which methods, settings and streams. A cell is one run of a stream by the real controller
and a real store. Finished cells are lines of `benchmarks/results/methods.jsonl`. A command measures what is missing
there, so that the table can be filled by many short commands on several machines. `--write` makes docs/results.md from
the file. For a machine whose commands end after ten minutes:

    cp benchmarks/results/methods.jsonl $OUT/
    PYTHONPATH=. python -m benchmarks.methods --results $OUT/methods.jsonl --data-dir PATH --minutes 9 --jobs 16

and then, where the repository is, `--merge FILE` adds the lines that came back.
"""
