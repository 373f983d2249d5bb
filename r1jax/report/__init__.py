"""The page at the end of a chain: `page` writes it, from `data`, `sections` and `figures`."""
