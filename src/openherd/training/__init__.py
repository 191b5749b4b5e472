"""Training: one loop, objectives, schedules, and the paper's three phases (paper 3.4)."""
