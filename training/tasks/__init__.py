"""One module a task; they differ in how rows become batches and in what is reported."""
