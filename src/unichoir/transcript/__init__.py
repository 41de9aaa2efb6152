"""What a result is: words with times, alignment, written forms, file formats."""
