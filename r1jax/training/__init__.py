"""Device programs that learn: log-probabilities, the sharded update, the scalar head."""
