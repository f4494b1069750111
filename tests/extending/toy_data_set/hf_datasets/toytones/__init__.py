"""A toy data set of tones with loudness ratings."""
