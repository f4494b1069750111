"""MELD: utterances of a TV series with text, sound and pictures, and the emotion and sentiment of each."""
