"""Everything between the outside systems and plain values."""
