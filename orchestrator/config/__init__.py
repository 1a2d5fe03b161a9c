"""A run's configuration: models, the YAML file, errors in words."""
