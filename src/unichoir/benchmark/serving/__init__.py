"""The benchmark behind `unichoir benchmark --serve`: how many clients a server handles in real time, and a soak test.

`run` is the entry point: it starts a `server`, lets `load` play clients in real time and `soak` open many short
sessions, reads the server with a `probe`, and returns `results`, which `report` writes as `tables` and files.
"""
