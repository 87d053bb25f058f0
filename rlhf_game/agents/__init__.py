"""What strategic groups do: misreports, best responses, coalitions and learners. Depends on ``rlhf_game.mechanism``."""
