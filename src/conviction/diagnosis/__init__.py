"""Diagnosis: a user's training program is observed while it runs, experiments confirm what is suspected of it."""
