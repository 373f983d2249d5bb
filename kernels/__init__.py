"""Programs written for one kind of machine, each next to its plain-JAX reference."""
