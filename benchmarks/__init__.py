"""What sparkscore costs beside other ways to score the same rows: one command, one table (`docs/benchmarks.md`)."""
