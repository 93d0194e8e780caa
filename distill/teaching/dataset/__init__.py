"""Rows on disk: columns, Parquet parts, manifest, and what people look at."""
