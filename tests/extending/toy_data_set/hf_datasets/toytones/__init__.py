"""A toy data set: tones, and a rating of how loud each is."""
