"""Conviction: convolutional networks that train."""
