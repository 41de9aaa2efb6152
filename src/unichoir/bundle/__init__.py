"""Model directories: the sums that they are checked by, their cards, and where they are fetched from."""
