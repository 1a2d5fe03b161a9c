"""The methods: what is trained for a task, and how earlier tasks are protected."""
