"""Commands that produce the figures in the documentation; each prints hardware, versions, n and spread."""
