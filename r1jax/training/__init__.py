"""Training on devices: log-probabilities, the sharded update, optimizers, the scalar head."""
