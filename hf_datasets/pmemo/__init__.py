"""PMEmo 2019: 794 song choruses with the skin conductance of their listeners. See README.md."""
