"""Notes on what a program's text shows, one file for each part of a training program."""
