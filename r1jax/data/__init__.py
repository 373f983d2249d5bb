"""Examples as random-access sources of dictionaries, and batches of them, on the host."""
