"""The benchmark behind `unichoir benchmark`: how fast models of a configuration are, with random weights.

`run` is the entry point. It takes a `plan`, lets `prepare` build the models and `worker` processes measure them, and
returns `results`, which `report` writes as `tables` and files. `serving` measures a running server instead.
"""
