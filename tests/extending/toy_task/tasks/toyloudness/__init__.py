"""A toy task: predict the loudness of a tone."""
