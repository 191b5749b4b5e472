"""Reports: pure functions from numbers to figures, tables and pages. They read run directories and nothing else."""
