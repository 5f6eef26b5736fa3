"""Where the pieces meet: a pipeline file becomes a plan, units, commits, a proof and a summary."""
