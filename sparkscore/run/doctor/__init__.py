"""`doctor`: what would trouble a run here, in software, settings, places and leftovers, each with its remedy."""
