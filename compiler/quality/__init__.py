"""How far outputs moved and what a metric lost: drift, scores, intervals, verdicts."""
