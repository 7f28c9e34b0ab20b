"""Training: a loop that yields a Step after each update, with its optimizer and schedule."""
