"""MELD: utterances from a TV series with text, audio and video, and the emotion and sentiment of each."""
