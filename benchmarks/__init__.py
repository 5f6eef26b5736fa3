"""What a scored row costs, in CPU-seconds of the whole process tree, beside the other ways to score on Spark."""
