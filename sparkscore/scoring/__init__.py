"""From record batches to record batches: batching, isolation of bad rows, the scorer. No Spark here."""
