"""From answers of several systems to one honest comparison: the test set, the measures, the report."""
