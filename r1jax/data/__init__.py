"""Examples as random-access sources of dicts, and the batches made of them, on the host."""
