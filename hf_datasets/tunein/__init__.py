"""TuneIn: embeddings of the text, pictures and sounds of creatives, and the attention that viewers gave them."""
