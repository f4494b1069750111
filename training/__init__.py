"""The training engine, shared by all tasks: from rows of a data set to a trained model."""
