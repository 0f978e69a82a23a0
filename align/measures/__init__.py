"""What a reward model's scores are worth, as pure functions of scores and preferences."""
