"""Programs written for a kind of machine, each beside its plain-JAX reference."""
