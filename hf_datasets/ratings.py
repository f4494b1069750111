"""The ratings of a song."""

RATINGS = ("arousal_mean", "valence_mean", "arousal_std", "valence_std")
