"""What users say, how, and to whom: drawn from a grammar, written by a model, or brought along."""
