"""What is seen of a run while it trains: figures of held-out examples, the log, and why it stops."""
