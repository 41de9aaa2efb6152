"""Model directories: their checksums, cards and download, and atomic writing."""
