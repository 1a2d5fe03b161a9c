"""`orthoplex sweep`: Ray Tune over whole streams. A trial is a run; the sweep's log lists them."""
