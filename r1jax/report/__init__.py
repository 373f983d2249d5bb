"""The page that ends a chain: its tables, its figures, and the data behind them."""
