"""Public corpora: from the files as published to manifests, by lhotse's recipes (the extra `corpora`)."""
