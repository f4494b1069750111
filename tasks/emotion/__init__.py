"""Predict the emotion and sentiment of utterances in dialogue."""
