"""Repairs of a program: the least change of its text that removes a cause."""
