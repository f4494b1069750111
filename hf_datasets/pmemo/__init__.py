"""PMEmo 2019: 794 song choruses with the skin conductance of those who heard them. Start with README.md."""
