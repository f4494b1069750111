"""A target sound among millions of clips."""
