"""The rooms that know Spark and no model: sessions, sources, the worker's carrier, and the commit."""
