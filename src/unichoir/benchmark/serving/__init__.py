"""How many clients a server serves in real time, and whether it stays as it is over many sessions."""
