"""Data sets: what each raw corpus becomes, and the command that makes it."""
