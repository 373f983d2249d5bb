"""Device programs that draw completions."""
