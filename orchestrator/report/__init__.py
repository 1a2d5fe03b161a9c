"""A run or a sweep as one page of HTML that needs nothing else."""
