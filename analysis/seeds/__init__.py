"""What five texts on P/D disaggregation claim, recomputed: analysis/seeds/data in, a table of claim, ours and verdict out.

Needs the standard library alone."""
