"""Reading a program: its text as a tree, a walk in the order in which it would run, and where its parts are."""
