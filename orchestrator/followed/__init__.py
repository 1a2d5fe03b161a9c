"""A stream after its training: recorded scores, drift, a period's page, evidence."""
