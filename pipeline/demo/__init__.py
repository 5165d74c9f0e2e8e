"""The demonstration: real images, annotators who make mistakes, reviewers who mostly do not, and a score board."""
