"""Parts of pages, cards and plots that all tasks share."""
