"""File formats of other toolkits."""
