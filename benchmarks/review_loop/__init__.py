"""The review loop with simulated people: what a queue of questions makes of a data set, question by question."""
