"""Detect a target sound in a large collection of clips."""
