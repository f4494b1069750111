"""TuneIn: stored embeddings of the text, pictures and sounds of creatives, and the attention that they got."""
