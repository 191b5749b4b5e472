"""Planning a run before it is paid for: memory, time, layouts, cost (paper 3.3). No torch here."""
