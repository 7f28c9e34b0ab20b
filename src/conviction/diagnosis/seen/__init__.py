"""What is seen of a program while it trains: hooks tell events, each thing seen has its record."""
