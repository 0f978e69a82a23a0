"""Public exams: their files read as published, what is asked of a model, how its answers are graded."""
