"""Emotion and sentiment in dialogue."""
