"""What a run wrote down: plans, claims, heartbeats, events and receipts, and the tables folded from them."""
