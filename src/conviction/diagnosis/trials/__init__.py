"""Trials: what a program is suspected of is tried on clones of its net, one factor at a time."""
