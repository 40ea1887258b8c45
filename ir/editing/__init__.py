"""Behind the rewriter: its index, its journal, and what an edit touched and changed."""
