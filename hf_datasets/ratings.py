"""Columns with the ratings of a song, shared by the builders and the data sets' columns."""

RATINGS = ("arousal_mean", "valence_mean", "arousal_std", "valence_std")
